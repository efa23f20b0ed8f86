"""Text that is made to take long, at every door of the gateway: others must not notice.

The gateway lives in the event loop of the test. What counts is the longest time for which its thread computed without
a turn for anybody else: processor time, measured by a computation of the same thread, so that it means the same on a
busy or slow machine. What collecting the garbage of the tests takes is not the gateway's.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway

OTHERS_WAIT_UNITS = 120.0
"""A quarter of a second on a machine on which `unit_s` is 2 ms."""
_UNIT = 60_000
SMALL, MEDIUM, LARGE = 40_000, 400_000, 4_000_000
DEEP = b"[]" * 65
UNITS = [b"[]", b'\\"', b"[", b'""', b"\xff", b"1,"]
"""Bodies are made of these, after an opening that is worth a closer look."""
OPENINGS = [DEEP, DEEP + b'"', b'{"query":"']
STRANGERS_DOORS = ["/auth/logout", "/auth/login"]
DOORS = ["/v1/sessions", "/v1/sessions/s/runs", "/v1/actions", "/v1/tasks", "/v1/orders"]
WORDS = ["a", "a_", "a.b-", "\u0301\u0323", "\u5bbf", "[1"]
"""Questions and searches are made of these."""
HEADERS = [
    "Authorization",
    "traceparent",
    "Idempotency-Key",
    "Cookie",
    "Content-Type",
    "X-Forwarded-For",
    "Last-Event-ID",
]
HEADER_UNITS = ["a,", "-", '"', " b", "Bearer "]
DOCUMENTS = {
    "a.md": (
        [b"", b"# ", b"---\ntitle: ", b"+++\n", b"<!--", b"[a]: <"],
        [b"[", b"# a\n", b"*a_ ", b"&#x41;", b"---\n", b"a_b."],
    ),
    "a.html": (
        [b"", b"<meta charset=punycode>", b"<title>", b"<main>"],
        [b"<div>", b"a", b"<table><td>", b"<footer>"],
    ),
}


class Others:
    """Other users of the event loop while an attack goes on."""

    def __init__(self) -> None:
        self.waited: dict[str, float] = {}
        """The longest turn of the loop's thread in each attack, in units."""

    async def during(self, name: str, attack: Awaitable[object]) -> None:
        """Await `attack`, which may fail, and note how long the others had to wait."""
        before = unit_s()
        with longest_turn() as turn, suppress(httpx.HTTPError, httpx.InvalidURL):
            await attack
        self.waited[name] = turn[0] / max(before, unit_s())

    def assert_served(self) -> None:
        """Nobody had to wait."""
        assert self.waited
        assert {name: units for name, units in self.waited.items() if units >= OTHERS_WAIT_UNITS} == {}


@contextmanager
def longest_turn() -> Iterator[list[float]]:
    """The processor time of the event loop's longest callback while the block runs."""
    run, longest = asyncio.Handle._run, [0.0]

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        longest[0] = max(longest[0], time.thread_time() - began)

    gc.freeze()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", timed)
            yield longest
    finally:
        gc.unfreeze()


def unit_s() -> float:
    """What a small computation takes this thread now, in seconds."""
    began = time.thread_time()
    sum(number % 7 for number in range(_UNIT))
    return time.thread_time() - began


def of(unit: bytes, size: int) -> bytes:
    return unit * (size // len(unit))


@pytest.fixture
async def gateway(replica: Replica) -> AsyncIterator[RunningGateway]:
    """One whose rates do not end an attack before it begins."""
    unlimited = 1_000_000
    async with replica(
        login_requests_per_s=unlimited,
        failed_logins_per_minute=unlimited,
        requests_per_s=unlimited,
        request_burst=unlimited,
        requests_per_s_per_service=unlimited,
        request_burst_per_service=unlimited,
        document_read_s=1,
    ) as running:
        yield running


@pytest.fixture
async def mallory(gateway: RunningGateway) -> httpx.AsyncClient:
    return await gateway.client_of("mallory", "operator")


@pytest.mark.parametrize("door", [*STRANGERS_DOORS, *DOORS])
async def test_bodies_at_every_door(gateway: RunningGateway, mallory: httpx.AsyncClient, door: str) -> None:
    client = gateway.client() if door in STRANGERS_DOORS else mallory
    others = Others()
    for opening in OPENINGS:
        for unit in UNITS:
            for size in (SMALL, MEDIUM) if unit in UNITS[:2] else (SMALL,):
                body = opening + of(unit, size)
                await others.during(f"{opening!r} {unit!r} {size}", client.post(door, content=body))
    for unit in UNITS[:2]:
        await others.during(f"{unit!r} {LARGE}", client.post(door, content=of(unit, LARGE)))
        await others.during(f"{unit!r} in chunks", client.post(door, content=in_chunks(unit)))
    others.assert_served()


VALUES = [b"1,", b'"",', b"{},", b"[],", b"null,", b'"a","b",', b"1e9,", b'{"a":1},']
"""Bodies of many tiny values are made of these."""
HOLDERS = [
    b'{"metadata":{"a":[%s1]}}',
    b'{"steps":["research"],"input":{"a":[%s1]}}',
    b"[%s1]",
    b'{"args":{"a":[%s1]}}',
]


@pytest.mark.parametrize("door", ["/v1/sessions", "/v1/tasks", "/v1/actions", "/v1/approvals/a/decisions"])
async def test_bodies_of_many_values(mallory: httpx.AsyncClient, door: str) -> None:
    others = Others()
    await mallory.post(door, content=b"{}")  # what a route does once, at its first request, is no attack's work
    for holder in HOLDERS:
        for unit in VALUES:
            body = holder.replace(b"%s", of(unit, 2_000_000))
            await others.during(f"{holder!r} {unit!r}", mallory.post(door, content=body))
        most = holder.replace(b"%s", of(b"1,", 2 * 49_900))
        await others.during(f"{holder!r} as many as are taken", mallory.post(door, content=most))
    names = b'{"metadata":{%s"z":1}}' % b"".join(b'"%d":1,' % number for number in range(150_000))
    await others.during("many names", mallory.post(door, content=names))
    others.assert_served()


async def in_chunks(unit: bytes) -> AsyncIterator[bytes]:
    for _ in range(1_000):
        yield unit


@pytest.mark.parametrize("word", WORDS)
async def test_questions_and_searches(mallory: httpx.AsyncClient, word: str) -> None:
    others = Others()
    for length in (7_999, 9_000):
        query = {"q": word * (length // len(word))}
        await others.during(f"search {length}", mallory.get("/v1/documents/search", params=query))
    for length in (31_999, SMALL):
        question = {"query": word * (length // len(word)), "wait_s": 0}
        await others.during(f"question {length}", mallory.post(f"/v1/sessions/q{length}/runs", json=question))
    others.assert_served()


async def test_headers_and_paths(mallory: httpx.AsyncClient) -> None:
    others = Others()
    for size in (8_000, SMALL):
        for unit in HEADER_UNITS:
            text = unit * (size // len(unit))
            for name in HEADERS:
                await others.during(f"{name} {unit!r} {size}", mallory.get("/v1/runs", headers={name: text}))
            await others.during(f"path {unit!r} {size}", mallory.get("/" + text.replace(" ", "/").replace("\t", "/")))
            await others.during(f"query {unit!r} {size}", mallory.get("/v1/runs", params={"cursor": text}))
    others.assert_served()


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_documents(mallory: httpx.AsyncClient, name: str) -> None:
    others = Others()
    heads, units = DOCUMENTS[name]
    for number, unit in enumerate(units):
        content = heads[number % len(heads)] + of(unit, MEDIUM // 4)
        await others.during(f"{unit!r}", mallory.post("/v1/documents", files={"file": (name, content)}))
    others.assert_served()
    answer = await mallory.post("/v1/documents", files={"file": ("last.md", b"# Last\n\nThe gateway goes on.")})
    assert answer.status_code == 201
