import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flotilla.runtime.health import http_server
from flotilla.runtime.http_limits import MAX_HEADERS, HttpLimits
from tests.support.waiting import busyness

QUICK = HttpLimits(head_s=0.3, body_s=0.3, body_bytes_per_s=1_000_000)


async def _size(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@asynccontextmanager
async def serving(limits: HttpLimits) -> AsyncIterator[int]:
    app = Starlette(routes=[Route("/", _size, methods=["GET", "POST"])])
    async with http_server(app, "127.0.0.1", 0, grace_s=1, limits=limits).serving() as port:
        yield port


async def exchange(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """All that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
HALVES = [
    b"",
    b"P",
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    HEAD + b"Content-Length: 10\r\n\r\nhalf",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT",
]


@pytest.mark.parametrize("half", HALVES)
async def test_a_request_that_does_not_arrive_is_given_up(half: bytes) -> None:
    async with serving(QUICK) as port:
        started = time.monotonic()
        answer = await exchange(port, half)
        assert b"408" in answer or answer.startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started < 6 * busyness()  # 0.3 s, or the 5 s of an idle connection


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", HEAD + b"Content-Length: 1000\r\n\r\n"])
async def test_a_drip_does_not_move_the_deadline(head: bytes) -> None:
    limits = HttpLimits(head_s=0.3, body_s=0.3, body_bytes_per_s=1_000)
    async with serving(limits) as port:
        started = time.monotonic()
        answer = await exchange(port, head, *[b"a"] * 100, pause_s=0.05)
        assert b" 200 " not in answer
        assert time.monotonic() - started < 8 * busyness()


async def test_a_body_that_comes_at_a_fair_rate_has_as_long_as_it_needs() -> None:
    limits = HttpLimits(body_s=0.2, body_bytes_per_s=10_000)
    async with serving(limits) as port:
        answer = await exchange(port, HEAD + b"Content-Length: 20000\r\n\r\n", *[b"a" * 2_000] * 10, pause_s=0.05)
        assert answer.endswith(b"20000")


async def test_a_connection_may_be_used_again() -> None:
    async with serving(QUICK) as port:
        one, last = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = await exchange(port, one, one, last, pause_s=0.4)
        assert answer.count(b" 200 ") == 3


async def test_an_address_has_its_number_of_connections_and_gets_them_back() -> None:
    async with serving(HttpLimits(connections_per_address=3)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert b" 429 " in await exchange(port, b"")
        held[0][1].close()
        await held[0][1].wait_closed()
        assert b" 200 " in await exchange(port, request)
        for _, writer in held[1:]:
            writer.close()


async def test_a_trusted_proxy_holds_as_many_connections_as_it_needs() -> None:
    async with serving(HttpLimits(connections_per_address=1, trusted_proxies=("127.0.0.0/8",))) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        assert b" 200 " in await exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize("headers", [b"a:b\r\n" * (MAX_HEADERS + 1), b"a: " + b"b" * 70_000 + b"\r\n"])
async def test_a_head_that_is_too_large_is_refused(headers: bytes) -> None:
    async with serving(HttpLimits()) as port:
        assert b" 400 " in await exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")


async def test_others_have_their_turn_while_a_body_of_small_chunks_is_read() -> None:
    async with serving(HttpLimits()) as port:
        body = b"1\r\na\r\n" * 40_000 + b"0\r\n\r\n"
        worst = asyncio.create_task(exchange(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body))
        turns = 0
        while not worst.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await worst).endswith(b"40000")
        assert turns > 100
