"""A folder of 200 MB is loaded in memory that does not grow with it."""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flotilla.postgres import tenant_transaction
from tests.integration.gateway.conftest import gateway, log_topics, operator, replica
from tests.support.gateway import RunningGateway

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]
__all__ = ["gateway", "log_topics", "operator", "replica"]
MEGABYTE = 1_000_000
SIZE = int(os.environ.get("FLOTILLA_TEST_FOLDER_MB", "200"))
MOST_MB = {"gateway": 250, "reader": 600, "command": 250}
"""What each kind of process may take: the gateway beyond what it took before."""
WORDS = (
    "crane",
    "harbour",
    "tide",
    "buoy",
    "pilot",
    "rope",
    "anchor",
    "quay",
    "ferry",
    "mast",
    "cargo",
    "lamp",
    "chart",
)
FLOTILLA = str(Path(sys.executable).with_name("flotilla"))


def prose(draw: random.Random, size: int) -> str:
    """Paragraphs of so many characters, with a number of its own in each."""
    paragraphs, length = [], 0
    while length < size:
        words = " ".join(draw.choices(WORDS, k=80))
        paragraphs.append(f"Berth {draw.randrange(10**9)}: {words}.")
        length += len(paragraphs[-1]) + 2
    return "\n\n".join(paragraphs)


def fill(folder: Path) -> int:
    """Write Markdown, pages, tables, and a few files near the limit of one document; return how many."""
    draw, left, number = random.Random(3), SIZE, 0  # noqa: S311 - drawn alike in every run
    while left > 0:
        size = min(left, 12 if number in (5, 40) else 1)
        text = prose(draw, size * MEGABYTE)
        match number % 4:
            case 0:
                (folder / f"{number}.html").write_text(f"<h1>Page {number}</h1><p>{text}", encoding="utf-8")
            case 1 if size == 1:
                rows = "".join(f'Berth {n},"{line}"\n' for n, line in enumerate(text.split("\n\n")))
                (folder / f"{number}.csv").write_text(f"Name,Note\n{rows}", encoding="utf-8")
            case _:
                (folder / f"{number}.md").write_text(f"# Manual {number}\n\n{text}", encoding="utf-8")
        left, number = left - size, number + 1
    return number


def children() -> list[int]:
    """The processes that this one has started."""
    return list(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()))


def memory_mb(pid: int) -> int:
    """What a process holds in memory; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS")), 0)


@asynccontextmanager
async def peaks_of(command: int) -> AsyncIterator[dict[str, int]]:
    """The most that gateway, its readers and the command hold, looked at ten times a second."""
    before = memory_mb(os.getpid())
    peaks = dict.fromkeys(MOST_MB, 0)

    async def look() -> None:
        while True:
            readers = [memory_mb(child) for child in children() if child != command]
            now = {"gateway": memory_mb(os.getpid()) - before, "reader": max(readers, default=0)}
            for kind, value in (now | {"command": memory_mb(command)}).items():
                peaks[kind] = max(peaks[kind], value)
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    try:
        yield peaks
    finally:
        looking.cancel()


async def test_a_large_folder_is_loaded_in_bounded_memory(gateway: RunningGateway, tmp_path: Path) -> None:
    files = fill(tmp_path)
    environment = {
        **os.environ,
        "FLOTILLA_URL": gateway.url,
        "FLOTILLA_TOKEN": await gateway.key("loader", ["operator"]),
    }
    command = (FLOTILLA, "documents", "sync", str(tmp_path), "--base", "kb:", "-o", "json")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    async with peaks_of(process.pid) as peaks:
        out, _ = await process.communicate()
    report = json.loads(out)
    assert (process.returncode, len(report["added"]), report["failed"]) == (0, files, [])
    async with tenant_transaction(gateway.pool, "acme") as connection:
        assert await connection.fetchval("SELECT count(*) FROM flotilla.documents") == files
        passages = await connection.fetchval("SELECT indexed_passages FROM flotilla.knowledge_bases")
    print(f"{SIZE} MB, {files} files, {passages} passages; most MB: {peaks}")  # noqa: T201 - what it is run for
    assert {kind: peak for kind, peak in peaks.items() if peak > MOST_MB[kind]} == {}
