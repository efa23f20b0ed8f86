"""Bodies of answers: framed, named, encoded and cut in ways that users of many endpoints report."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flotilla.llm import ModelRefused, ModelTimedOut, ModelUnavailable, openai_model
from tests.contract.llm.asking import ANSWER, JSON, PIECES, asked
from tests.support.scripted_endpoint import EVENT_STREAM, ScriptedEndpoint, chunk, events, finished

STREAM = b"".join(events(*PIECES, *finished()))
UNENDED = b"".join(events(*PIECES, *finished(), done=False))
WHOLE = {"model": "m", "choices": [{"message": {"content": ANSWER}, "finish_reason": "stop"}]}
LINES = b"\n".join(json.dumps(chunk(piece)).encode() for piece in PIECES) + b"\n" + json.dumps(finished()[0]).encode()


async def answer_in(*parts: bytes, content_type: str = EVENT_STREAM, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    completion, streamed = await asked(ScriptedEndpoint(parts, content_type=content_type, headers=named))
    assert completion.text == streamed
    return completion.text


@pytest.mark.parametrize("content_type", ["", JSON, "text/plain; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("parts", [(STREAM,), tuple(STREAM[at : at + 1] for at in range(len(STREAM)))])
async def test_a_stream_is_read_whatever_it_is_called(content_type: str, parts: tuple[bytes, ...]) -> None:
    assert await answer_in(*parts, content_type=content_type) == ANSWER


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(WHOLE).encode(),
        json.dumps(WHOLE, indent=1).encode(),
        b"\n  " + json.dumps([WHOLE]).encode(),
        LINES,
        LINES + b"\ndata: [DONE]\n",
        LINES.replace(b"\n", b"\n\n"),
    ],
)
@pytest.mark.parametrize("content_type", [EVENT_STREAM, JSON, "application/x-ndjson"])
async def test_documents_are_read_whatever_they_are_called(body: bytes, content_type: str) -> None:
    assert await answer_in(body, content_type=content_type) == ANSWER


@pytest.mark.parametrize(
    "body",
    [
        STREAM.replace(b"data: ", b"data:"),
        STREAM.replace(b"data: ", b"data: data: "),
        STREAM.replace(b"\n\n", b"\n"),
        b"data:\n\n" + STREAM,
        b"event: ping\ndata: keep alive\n\n" + STREAM,
        UNENDED + b"data: [done]\n\n",
        UNENDED + b'data: "[DONE]"\n\n',
        UNENDED + b"event: done\ndata:\n\n",
        UNENDED + b"event: end\ndata: bye\n\n",
        STREAM + b"".join(events(" and more")),
        STREAM.replace(b'"m"', b'"m\t\x01"'),
        b"data: " + json.dumps(chunk(ANSWER), indent=1).replace("\n", "\ndata: ").encode() + b"\n\n" + STREAM[-300:],
        b'data: {"choices": [], "created": NaN}\n\n' + STREAM,
    ],
)
async def test_a_stream_in_any_frame_is_the_same_answer(body: bytes) -> None:
    assert await answer_in(body) == ANSWER


async def test_a_compressed_stream_is_read() -> None:
    assert await answer_in(gzip.compress(STREAM), Content_Encoding="gzip") == ANSWER


async def test_an_answer_that_is_here_is_used_though_its_connection_breaks() -> None:
    """Without the usage, which is estimated: what was written is paid for."""
    whole = b"".join(events(*PIECES, finished()[0], done=False))
    assert await answer_in(whole, Content_Length="9999") == ANSWER


class KeepsOpen(ScriptedEndpoint):
    """Keeps the connection open after its last part."""

    async def _written(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        await asyncio.Event().wait()


async def test_an_endpoint_that_keeps_the_connection_open_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_model, "_AFTER_FINISH_S", 0.05)
    endpoint = KeepsOpen(events(*PIECES, finished()[0], done=False))
    completion, streamed = await asked(endpoint)
    assert completion.text == streamed == ANSWER
    with pytest.raises(ModelTimedOut):
        await asked(KeepsOpen(events(*PIECES, done=False)), llm_timeout_s=0.3)


@pytest.mark.parametrize(
    ("body", "headers", "error", "reason"),
    [
        (STREAM, {"Content-Encoding": "gzip"}, ModelRefused, "not what its Content-Encoding says"),
        (STREAM[:200], {}, ModelUnavailable, "broke off its answer"),
        (STREAM[:200], {"Content-Length": "9999"}, ModelUnavailable, "broke off its answer"),
        (b"data: {'choices': []}\n\n" + STREAM, {}, ModelRefused, "answered with {'choices': .* instead of JSON"),
        (b'error: {"message": "no slot", "code": 500}\n\n', {}, ModelUnavailable, "500: no slot"),
        (b"event: error\ndata: engine died\n\n", {}, ModelUnavailable, "engine died"),
        (b"<html><title>Login</title></html>", {}, ModelRefused, r"an HTML page \(Login\) instead of JSON"),
        (b"no healthy upstream", {"Content-Type": "text/plain"}, ModelRefused, "no healthy upstream instead of JSON"),
    ],
)
async def test_a_body_that_is_no_answer_is_named(
    body: bytes, headers: dict[str, str], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        await asked(ScriptedEndpoint([body], headers=headers))


@pytest.mark.parametrize(
    ("document", "members"),
    [
        ({"id": "x", "status": "queued"}, "with id, status"),
        ({"data": WHOLE}, "with data"),
        ({"model": "m", "message": {"content": ANSWER}, "done": True}, "with model, message, done"),
        ({"type": "message_start", "message": {"usage": {}}}, "with type, message"),
        ({}, "an empty object"),
        (7, "no JSON object"),
        (None, "no JSON object"),
        (json.dumps(WHOLE), "no JSON object"),
    ],
)
@pytest.mark.parametrize("frame", ["whole", "stream"])
async def test_another_apis_answer_ends_with_the_advice_to_check_the_address(
    document: Any, members: str, frame: str
) -> None:
    body = json.dumps(document).encode()
    whole, stream = ScriptedEndpoint([body], content_type=JSON), ScriptedEndpoint([b"data: " + body + b"\n\n"])
    with pytest.raises(ModelRefused, match=rf"no chat completion \({members}\); check OPENAI_BASE_URL"):
        await asked(whole if frame == "whole" else stream)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_request_does_not_follow_an_answer_to_another_host(status: int) -> None:
    elsewhere = ScriptedEndpoint([], status=status, headers={"Location": "http://127.0.0.1:9/v1"})
    with pytest.raises(ModelRefused, match=rf"{status}: it points to 'http://127.0.0.1:9/v1'; set OPENAI_BASE_URL"):
        await asked(elsewhere)
    assert len(elsewhere.requests) == 1


async def test_no_content_is_no_answer() -> None:
    with pytest.raises(ModelRefused, match="204: an empty answer; check OPENAI_BASE_URL"):
        await asked(ScriptedEndpoint([], status=204))
