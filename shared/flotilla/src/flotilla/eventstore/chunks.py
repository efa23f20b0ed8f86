"""Long append-only lists that come in pieces, and decode a piece only when it is looked at.

A session of 100,000 events has tens of thousands of messages. Its snapshots hold them as JSON; anyone who wants the
last ten, or the same JSON again, need not pay for the rest.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar, overload

import msgspec

T = TypeVar("T")


class JsonChunk(Generic[T]):
    """Items, known as objects or as the JSON array of them."""

    __slots__ = ("_decoder", "_items", "_raw", "count")

    def __init__(self, items: Sequence[T]) -> None:
        self.count = len(items)
        self._items: Sequence[T] | None = items
        self._raw: bytes | None = None
        self._decoder: msgspec.json.Decoder[list[T]] | None = None

    @classmethod
    def from_json_array(cls, raw: bytes, count: int, decoder: "msgspec.json.Decoder[list[T]]") -> "JsonChunk[T]":
        """The `count` items of the JSON array `raw`, decoded on first use."""
        chunk = cls(())
        chunk.count, chunk._items, chunk._raw, chunk._decoder = count, None, raw, decoder
        return chunk

    def decoded_items(self) -> Sequence[T]:
        """The items as objects."""
        if self._items is None:
            assert self._raw is not None and self._decoder is not None  # noqa: S101, PT018 - set together
            self._items = self._decoder.decode(self._raw)
        return self._items

    def inner_json(self) -> memoryview:
        """The items as JSON, comma-separated, without the brackets."""
        if self._raw is None:
            self._raw = msgspec.json.encode(self._items)
        return memoryview(self._raw)[1:-1]


class ChunkedSequence(Sequence[T]):
    """An immutable sequence over chunks."""

    __slots__ = ("_chunks", "_ends")

    def __init__(self, chunks: Sequence[JsonChunk[T]] = ()) -> None:
        self._chunks = tuple(chunk for chunk in chunks if chunk.count)
        self._ends = tuple(accumulate(chunk.count for chunk in self._chunks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[T]:
        for chunk in self._chunks:
            yield from chunk.decoded_items()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, position)
        start = self._ends[number - 1] if number else 0
        return self._chunks[number].decoded_items()[position - start]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_is_equal, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(list(self))

    def __add__(self, other: "ChunkedSequence[T]") -> "ChunkedSequence[T]":
        return ChunkedSequence((*self._chunks, *other._chunks))

    def json_parts(self) -> Iterator[bytes | memoryview]:
        """The JSON array of all items, in parts to be joined: of tens of megabytes each copy counts."""
        yield b"["
        for number, chunk in enumerate(self._chunks):
            if number:
                yield b","
            yield chunk.inner_json()
        yield b"]"

    def to_json(self) -> bytes:
        """The JSON array of all items."""
        return b"".join(self.json_parts())


def _is_equal(one: Any, other: Any) -> bool:
    return bool(one == other)
