import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flotilla.contracts.errors import Invalid, RetryLater
from flotilla.knowledge.documents import UploadedDocument
from flotilla.knowledge.parse import parse_document
from flotilla.knowledge.unicode_form import seen
from flotilla.runtime.confined import CallLimits, ConfinedProcesses, OverLimit
from tests.support.waiting import eventually

ENDLESS = UploadedDocument(uri="a.md", content=b"[" * 400_000)
"""Minutes of work for the Markdown parser."""
HUGE = UploadedDocument(uri="a.md", content=b"+++\n" + b"a." * 20_000 + b"b = 1\n+++\ntext")
"""Hundreds of megabytes for the TOML parser: one table in the other, each under its whole name."""


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    os.environ.setdefault("FLOTILLA_SECRET_OF_THE_TEST", "hunter2")


@pytest.fixture
async def confined() -> AsyncIterator[ConfinedProcesses]:
    limits = CallLimits(cpu_s=1, wall_s=60, memory_bytes=128 * 1024**2, queue_s=60)
    async with ConfinedProcesses.open("flotilla.knowledge.base", children=1, limits=limits) as opened:
        yield opened


def processes() -> set[int]:
    """The children of this process that wait for calls, by their ids."""
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_child(entry)}


def _is_child(entry: Path) -> bool:
    with contextlib.suppress(OSError):
        parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        return int(parent) == os.getpid() and b"confined_child" in (entry / "cmdline").read_bytes()
    return False


def environment_of(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes().strip(b"\0")


async def test_a_function_returns_its_typed_result_and_the_child_stays(confined: ConfinedProcesses) -> None:
    media_type, parsed = await confined.run(parse_document, UploadedDocument(uri="a.md", content=b"# A\n\ntext"))
    assert (media_type, [block.text for block in parsed.blocks], parsed.title) == ("text/markdown", ["A", "text"], "A")
    first = processes()
    assert await confined.run(seen, "a\u00adb") == "ab"
    assert processes() == first
    assert len(first) == 1


async def test_what_the_function_refuses_is_refused_and_the_child_stays(confined: ConfinedProcesses) -> None:
    await confined.run(seen, "x")
    first = processes()
    with pytest.raises(Invalid, match=r"a\.md: is empty"):
        await confined.run(parse_document, UploadedDocument(uri="a.md", content=b""))
    assert await confined.run(seen, "y") == "y"
    assert processes() == first


@pytest.mark.parametrize(("upload", "reason"), [(ENDLESS, "more than 1 s of processor"), (HUGE, "128 MiB of memory")])
async def test_a_call_over_its_limits_is_ended_and_the_next_gets_a_new_child(
    confined: ConfinedProcesses, upload: UploadedDocument, reason: str
) -> None:
    await confined.run(seen, "x")
    before = processes()
    with pytest.raises(OverLimit, match=reason):
        await confined.run(parse_document, upload)
    assert await confined.run(seen, "next") == "next"
    assert processes().isdisjoint(before)


async def test_a_call_that_nobody_waits_for_any_more_is_ended(confined: ConfinedProcesses) -> None:
    await confined.run(seen, "x")
    (before,) = processes()
    call = asyncio.create_task(confined.run(parse_document, ENDLESS))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    async def gone() -> bool:
        return before not in processes()

    await eventually(gone)
    assert await confined.run(seen, "next") == "next"


async def test_a_child_that_was_killed_is_replaced(confined: ConfinedProcesses) -> None:
    await confined.run(seen, "x")
    os.kill(processes().pop(), 9)
    with pytest.raises(OverLimit, match="end"):
        await confined.run(seen, "y")
    assert await confined.run(seen, "z") == "z"


async def test_the_event_loop_goes_on_while_a_child_works(confined: ConfinedProcesses) -> None:
    await confined.run(seen, "x")
    call = asyncio.create_task(confined.run(parse_document, ENDLESS))
    turns = 0
    while not call.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 10
    with pytest.raises(OverLimit):
        await call


async def test_a_call_for_which_no_child_becomes_free_may_come_back() -> None:
    limits = CallLimits(cpu_s=5, queue_s=0.01)  # no process starts so fast
    async with ConfinedProcesses.open("flotilla.knowledge.base", children=1, limits=limits) as confined:
        with pytest.raises(RetryLater, match="busy"):
            await confined.run(seen, "x")


async def test_children_have_nothing_of_the_environment(confined: ConfinedProcesses) -> None:
    await confined.run(seen, "x")
    (child,) = processes()
    assert environment_of(child) == b""


async def test_no_child_stays_when_the_pool_is_closed_in_the_middle_of_a_call() -> None:
    async with ConfinedProcesses.open("flotilla.knowledge.base", children=2) as confined:
        await confined.run(seen, "x")
        call = asyncio.create_task(confined.run(parse_document, ENDLESS))
        await asyncio.sleep(0.01)
    with pytest.raises(OverLimit):
        await call
    assert processes() == set()
