"""JSON documents out of an answer's body: a stream of events, one document, or one a line.

The body decides which, not its Content-Type: proxies and endpoints name a stream `application/json`, `text/plain` or
nothing at all, and send one document as `text/event-stream`.
"""

import codecs
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from flotilla.llm.server_sent_events import StreamTooLarge, parse_server_sent_events

MAX_EVENT_BYTES = 8_000_000
MAX_ANSWER_BYTES = 32_000_000
_DONE = "[DONE]"
_FIELD = re.compile(rb"(data|event|id|retry)?:")
_LONGEST_FIELD = len(b"event:")
_OTHER_FORMS = (b"{", b"[", b"<")


class NotJsonAnswer(Exception):
    """What should be a JSON document is none. `text` is all of it, `is_whole` whether it is the whole answer."""

    def __init__(self, text: str, reason: Exception, *, is_whole: bool = False) -> None:
        super().__init__(str(reason))
        self.text = text
        self.is_whole = is_whole


@dataclass(frozen=True, slots=True)
class AnswerDocument:
    """One document of an answer. `is_error`: it came as an event of that kind."""

    value: object
    is_error: bool = False


DONE = AnswerDocument(_DONE)
"""The endpoint said that the answer is complete."""


async def stream_documents(body: AsyncIterator[bytes], content_type: str) -> AsyncIterator[AnswerDocument]:
    """Yield what the answer consists of, and `DONE` where the endpoint says that it is complete.

    Raises:
        NotJsonAnswer: something in it is not JSON. An event that is none is left out where its kind is not that of an
            answer.
        StreamTooLarge: before more than the limits is held in memory.
    """
    beginning, rest = await _begun(body)
    if _is_stream(beginning, content_type):
        async for document in _streamed(rest):
            yield document
        return
    for value in _read(await _whole(rest)):
        yield AnswerDocument(value)
    yield DONE


def parse_documents(text: str) -> list[object]:
    """Return the documents in a text: one, the elements of a list, or one a line.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    try:
        document = _loaded(text)
    except (ValueError, RecursionError):
        lines = [_without_prefix(line) for line in text.split("\n")]
        found = [line for line in lines if line and not _is_end(line)]
        if len(found) <= 1:
            raise
        return [_loaded(line) for line in found]
    return document if isinstance(document, list) else [document]


async def _streamed(body: AsyncIterator[bytes]) -> AsyncIterator[AnswerDocument]:
    broken: NotJsonAnswer | None = None
    async for event in parse_server_sent_events(
        body, max_event_bytes=MAX_EVENT_BYTES, max_stream_bytes=MAX_ANSWER_BYTES
    ):
        data = _without_prefix(event.data)
        if _is_end(data):
            yield DONE
            return
        if broken:  # the answer goes on: it was not cut off there
            raise NotJsonAnswer(broken.text, broken, is_whole=True)
        try:
            values = parse_documents(data) if data else []
        except (ValueError, RecursionError) as invalid:
            if event.kind == "error":
                yield AnswerDocument(data, is_error=True)
            elif event.kind == "message":
                broken = NotJsonAnswer(data, invalid)
            continue
        for value in values:
            yield AnswerDocument(value, event.kind == "error")
    if broken:
        raise broken


def _read(text: str) -> list[object]:
    try:
        return parse_documents(text)
    except (ValueError, RecursionError) as invalid:
        raise NotJsonAnswer(text, invalid, is_whole=True) from invalid


def _loaded(text: str) -> object:
    # Endpoints leave control characters in strings as they are; the meaning is plain.
    return json.loads(text, strict=False)


def _is_end(data: str) -> bool:
    return data.strip().strip('"').upper() == _DONE


def _without_prefix(data: str) -> str:
    """Proxies that frame a framed stream once more leave `data: data: {…}`."""
    data = data.strip()
    while data.startswith("data:"):
        data = data.removeprefix("data:").lstrip()
    return data


async def _begun(body: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """How the body begins, as far as it tells what it is; and all of it but the blanks before that."""
    start, size_bytes = b"", 0
    async for chunk in body:
        size_bytes += len(chunk)
        start = _start(start + chunk)
        if len(start) >= _LONGEST_FIELD or b":" in start or start.startswith(_OTHER_FORMS):
            break
        if size_bytes > MAX_EVENT_BYTES:
            raise StreamTooLarge(f"it begins with {size_bytes} bytes of blanks")
    return start, _joined(start, body)


def _start(read: bytes) -> bytes:
    return read.removeprefix(codecs.BOM_UTF8).lstrip()


async def _joined(read: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield read
    async for chunk in body:
        yield chunk


def _is_stream(beginning: bytes, content_type: str) -> bool:
    if _FIELD.match(beginning):
        return True
    return content_type.lower().startswith("text/event-stream") and not beginning.startswith(_OTHER_FORMS)


async def _whole(body: AsyncIterator[bytes]) -> str:
    read: list[bytes] = []
    size_bytes = 0
    async for chunk in body:
        size_bytes += len(chunk)
        if size_bytes > MAX_ANSWER_BYTES:
            raise StreamTooLarge(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        read.append(chunk)
    return b"".join(read).decode("utf-8-sig", "replace")
