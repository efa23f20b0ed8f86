"""The archive of an export: what a reader finds in it, and how much of it is in memory."""

import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Iterable
from typing import Any

from gateway.privacy.archive import StreamedArchive


async def pieces(lines: int, line: bytes) -> AsyncIterator[Iterable[bytes]]:
    for _ in range(lines):
        yield [line]


async def test_a_reader_finds_each_file_and_the_index_behind_them() -> None:
    archive, sent = StreamedArchive(), io.BytesIO()
    for name, lines in (("a.jsonl", 2), ("empty.jsonl", 0), ("b/ä.jsonl", 1)):
        async for data in archive.add(name, pieces(lines, b"{}\n")):
            sent.write(data)
    sent.write(archive.close({"files": archive.files}))
    read = zipfile.ZipFile(sent)
    assert read.testzip() is None
    assert read.namelist() == ["a.jsonl", "b/ä.jsonl", "index.json"]
    index: Any = json.loads(read.read("index.json"))
    assert [(file["file"], file["lines"]) for file in index["files"]] == [("a.jsonl", 2), ("b/ä.jsonl", 1)]


async def test_no_more_than_a_piece_is_in_memory() -> None:
    archive, line, sent = StreamedArchive(), os.urandom(2**16) + b"\n", 0
    tracemalloc.start()
    try:
        async for data in archive.add("large.jsonl", pieces(200, line)):
            sent += len(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent > 200 * 2**16
    assert peak < 2 * 2**20
