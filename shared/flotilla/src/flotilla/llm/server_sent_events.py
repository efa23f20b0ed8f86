"""Server-sent events out of a byte stream, within limits of size.

Lines end with LF, CRLF or CR only: a decoder that also splits at U+2028, as `str.splitlines` does, breaks JSON in two.
Source: WHATWG HTML, "Server-sent events", parsing an event stream.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class StreamTooLarge(Exception):
    """One event, or the whole stream, is larger than the limit."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """`data` is the event's data lines, joined by a newline."""

    kind: str
    data: str


async def parse_server_sent_events(
    chunks: AsyncIterator[bytes], *, max_event_bytes: int, max_stream_bytes: int
) -> AsyncIterator[ServerSentEvent]:
    """Yield the events in `chunks`; a last event without its blank line counts too.

    Raises:
        StreamTooLarge: before more than the limits is held in memory.
    """
    event = _Event()
    is_first = True
    async for read in _lines(chunks, max_event_bytes, max_stream_bytes):
        line = read.removeprefix(_BYTE_ORDER_MARK) if is_first else read
        is_first = False
        if line:
            event.add(line, max_event_bytes)
        elif complete := event.take():
            yield complete
    if complete := event.take():
        yield complete


class _Event:
    def __init__(self) -> None:
        self._kind = "message"
        self._data: list[bytes] = []
        self._size_bytes = 0

    def add(self, line: bytes, max_bytes: int) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size_bytes += len(value)
            if self._size_bytes > max_bytes:
                raise StreamTooLarge(f"one event has more than {max_bytes} bytes")
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode(errors="replace")
        elif name == b"error":  # no field of the standard: llama.cpp's server uses it for what went wrong
            self._kind = "error"
            self._data.append(value[:max_bytes])

    def take(self) -> ServerSentEvent | None:
        kind, data = self._kind, self._data
        self._kind, self._data, self._size_bytes = "message", [], 0
        return ServerSentEvent(kind, b"\n".join(data).decode(errors="replace")) if data else None


async def _lines(chunks: AsyncIterator[bytes], max_line_bytes: int, max_stream_bytes: int) -> AsyncIterator[bytes]:
    """Each byte is looked at a constant number of times, however the stream is cut into chunks."""
    begun: list[bytes] = []
    begun_bytes = total_bytes = 0
    ends_with_cr = False
    async for raw in chunks:
        total_bytes += len(raw)
        if total_bytes > max_stream_bytes:
            raise StreamTooLarge(f"the answer has more than {max_stream_bytes} bytes")
        chunk = raw.removeprefix(b"\n") if ends_with_cr else raw
        ends_with_cr = raw.endswith(b"\r")
        *complete, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in complete:
            yield b"".join([*begun, part])
            begun, begun_bytes = [], 0
        begun_bytes += len(rest)
        if begun_bytes > max_line_bytes:
            raise StreamTooLarge(f"one line has more than {max_line_bytes} bytes")
        if rest:
            begun.append(rest)
    if begun:
        yield b"".join(begun)
