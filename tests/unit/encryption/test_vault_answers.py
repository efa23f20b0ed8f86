"""What a transit engine, or something in its place, may answer: what is no key never becomes one."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.encryption.vault import VaultTransit
from flotilla.runtime import http_server

CONTEXT = "key of tenant default"
ROOT = "vault:transit/flotilla"


@asynccontextmanager
async def answering(
    tmp_path: Path, status: int, body: bytes, **headers: str
) -> AsyncIterator[tuple[VaultTransit, list[str]]]:
    """A provider whose server always answers this; and the paths that were asked for, with the token."""
    seen: list[str] = []

    async def answer(request: Request) -> Response:
        seen.append(f"{request.url.path} {request.headers.get('x-vault-token')}")
        return Response(body, status, headers)

    (tmp_path / "token").write_text("t1", encoding="utf-8")
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with http_server(app, "127.0.0.1", 0, grace_s=1).serving() as port:
        url = f"http://127.0.0.1:{port}"
        yield VaultTransit(url, "flotilla", token_file=tmp_path / "token"), seen


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw(tmp_path: Path, answer: Answer) -> AsyncIterator[VaultTransit]:
    """A provider whose server speaks no HTTP but what `answer` writes."""
    (tmp_path / "token").write_text("t1", encoding="utf-8")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with (
        asyncio.TaskGroup() as group,
        await asyncio.start_server(lambda *streams: group.create_task(serve(*streams)), "127.0.0.1", 0) as server,
    ):
        port = server.sockets[0].getsockname()[1]
        yield VaultTransit(f"http://127.0.0.1:{port}", "flotilla", token_file=tmp_path / "token")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"x":' * 10_000, b"[]", b"{}", b'{"data": 1}', b'{"data": {"plaintext": 1}}',
     b'{"data": {"plaintext": "?"}}',
     b'{"data": {"plaintext": "' + b"A" * 100_000 + b'"}}', b"\xff" * 100],
)  # fmt: skip
async def test_an_answer_that_holds_no_key_is_asked_for_again(tmp_path: Path, body: bytes) -> None:
    async with answering(tmp_path, 200, body) as (roots, seen):
        for _ in range(2):
            with pytest.raises(RetryLater):
                await roots.unwrap(ROOT, b"vault:v1:AAAA", CONTEXT)
        assert len(seen) == 2, "nothing was remembered"


@pytest.mark.parametrize("plaintext", ["", "AAAA"])
async def test_what_has_not_the_size_of_a_key_is_none(tmp_path: Path, plaintext: str) -> None:
    async with answering(tmp_path, 200, json.dumps({"data": {"plaintext": plaintext}}).encode()) as (roots, _):
        with pytest.raises(RetryLater, match="no key"):
            await roots.unwrap(ROOT, b"vault:v1:AAAA", CONTEXT)


@pytest.mark.parametrize("body", [b'{"data": {}}', b'{"data": {"ciphertext": ""}}'])
async def test_an_answer_without_a_ciphertext_wraps_nothing(tmp_path: Path, body: bytes) -> None:
    async with answering(tmp_path, 200, body) as (roots, _):
        with pytest.raises(RetryLater):
            await roots.wrap(bytes(32), CONTEXT)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ConfigurationError), (404, ConfigurationError), (403, RetryLater), (429, RetryLater), (500, RetryLater),
     (502, RetryLater), (503, RetryLater), (204, RetryLater)],
)  # fmt: skip
async def test_a_refusal_says_what_it_was(tmp_path: Path, status: int, kind: type[Exception]) -> None:
    async with answering(tmp_path, status, b'{"errors": ["why"]}' if status != 204 else b"") as (roots, _):
        with pytest.raises(kind, match=str(status)):
            await roots.wrap(bytes(32), CONTEXT)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_token_goes_to_no_other_server(tmp_path: Path, status: int) -> None:
    async with answering(tmp_path, 200, b"{}") as (other, seen):
        elsewhere = other._poster._url
        async with answering(tmp_path, status, b"", location=f"{elsewhere}/v1/x") as (roots, _):
            with pytest.raises(RetryLater, match=str(status)):
                await roots.wrap(bytes(32), CONTEXT)
        assert seen == []


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{", b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
     b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\nnone\r\n", b"HTTP/1.1 x\r\n\r\n", b"\xff\r\n", b""],
)  # fmt: skip
async def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path: Path, said: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    async with raw(tmp_path, answer) as roots:
        with pytest.raises(RetryLater):
            await roots.wrap(bytes(32), CONTEXT)


async def test_an_answer_that_trickles_in_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flotilla.encryption.http.TIMEOUT_S", 0.2)
    refused = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n")
        while not refused.is_set():
            writer.write(b" ")
            await asyncio.sleep(0.05)

    async with raw(tmp_path, answer) as roots, asyncio.timeout(10):
        with pytest.raises(RetryLater, match="answers nothing"):
            await roots.wrap(bytes(32), CONTEXT)
        refused.set()


@pytest.mark.parametrize(
    "token",
    ["", "hvs.first\nhvs.second", "hvs.secret\x00", "hvs.schl\u00fcssel"],
    ids=["none", "two", "control", "no ASCII"],
)
async def test_a_file_that_holds_no_token_is_named_and_not_shown(tmp_path: Path, token: str) -> None:
    async with answering(tmp_path, 200, b"{}") as (roots, seen):
        (tmp_path / "token").write_text(token, encoding="utf-8")
        with pytest.raises(RetryLater, match="FLOTILLA_ENCRYPTION_VAULT_TOKEN_FILE") as refusal:
            await roots.wrap(bytes(32), CONTEXT)
    assert "hvs" not in str(refusal.value)
    assert seen == []


@pytest.mark.parametrize(
    "root_id", ["vault:", "vault:x", "vault:../sys/seal", "vault:a//b", "vault:a/..", "0123", "vault:a/b?c"]
)
async def test_an_id_that_is_none_of_vaults_is_asked_for_nowhere(tmp_path: Path, root_id: str) -> None:
    async with answering(tmp_path, 200, b"{}") as (roots, seen):
        with pytest.raises(ConfigurationError, match="is not Vault's"):
            await roots.unwrap(root_id, b"vault:v1:AAAA", CONTEXT)
    assert seen == []


async def test_another_key_of_the_same_server_opens_what_it_wrapped(tmp_path: Path) -> None:
    body = json.dumps({"data": {"plaintext": "A" * 43 + "="}}).encode()
    async with answering(tmp_path, 200, body) as (roots, seen):
        assert await roots.unwrap("vault:team/transit/former", b"vault:v1:AAAA", CONTEXT) == bytes(32)
    assert seen == ["/v1/team/transit/decrypt/former t1"]


async def test_what_many_ask_for_at_once_takes_one_request(tmp_path: Path) -> None:
    body = json.dumps({"data": {"plaintext": "A" * 43 + "="}}).encode()
    async with answering(tmp_path, 200, body) as (roots, seen):
        first, *others = [asyncio.create_task(roots.unwrap(ROOT, b"vault:v1:AAAA", CONTEXT)) for _ in range(20)]
        await asyncio.sleep(0)  # all of them ask
        first.cancel()
        assert await asyncio.gather(*others) == [bytes(32)] * 19
        assert first.cancelled()
    assert len(seen) == 1


async def test_what_many_got_no_answer_to_is_asked_for_again(tmp_path: Path) -> None:
    async with answering(tmp_path, 503, b"") as (roots, seen):
        for asked in (1, 2):
            outcomes = await asyncio.gather(
                *[roots.unwrap(ROOT, b"vault:v1:AAAA", CONTEXT) for _ in range(20)], return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} == {RetryLater}
            assert len(seen) == asked
