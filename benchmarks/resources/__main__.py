"""Prints what each service takes, as a table: one process of each, on real servers, asked by the API.

    python -m benchmarks.resources [--seconds 60] [--rate 1] [--at-once 20]

Phases: idle; `--rate` runs per second; and the peak, `--at-once` runs at any time. The processor time of a run hardly
depends on what else the machine does, memory does not at all; the rate of the peak does.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from flotilla_devstack.process import ProcessIdentity
from tests.e2e.fleet import Fleet, finished, start_run
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.catalog import SERVICES

QUESTION = "Who inspects the mooring lines at Northquay?"
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_S = 1.0


@dataclass(frozen=True)
class Usage:
    """Of one service in one phase: milli-CPUs on average, MiB at most."""

    millicpu: float
    memory_mib: float


@dataclass(frozen=True)
class Phase:
    """What was done, how many runs were over in each second, and what each service took."""

    name: str
    runs_per_s: float
    used: dict[str, Usage]


class Asker:
    """Asks questions, each in a session of its own, and counts what is over."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._numbers = itertools.count()
        self.over = 0

    async def ask(self) -> None:
        """One run, to its end.

        Raises:
            AssertionError: it did not end well.
        """
        session = f"resources-{next(self._numbers)}"
        run = await finished(self._client, await start_run(self._client, session, QUESTION, session))
        assert run["status"] == "success", run
        self.over += 1

    async def rest(self, seconds: float) -> None:
        """Ask nothing."""
        await asyncio.sleep(seconds)

    async def steadily(self, rate: float, seconds: float) -> None:
        """Begin `rate` runs per second, whether the earlier ones are over or not."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                group.create_task(self.ask())

    async def at_once(self, many: int, seconds: float) -> None:
        """Keep `many` runs open."""
        until = time.monotonic() + seconds

        async def one_after_the_other() -> None:
            while time.monotonic() < until:
                await self.ask()

        async with asyncio.TaskGroup() as group:
            for _ in range(many):
                group.create_task(one_after_the_other())


async def phase(name: str, fleet: Fleet, asker: Asker, work: Awaitable[None]) -> Phase:
    """Watch every service while `work` is done."""
    processes = {service: _identity(fleet, service) for service in SERVICES}
    before, over, began = {s: cpu_s(p) for s, p in processes.items()}, asker.over, time.monotonic()
    peaks = dict.fromkeys(processes, 0.0)
    doing = asyncio.ensure_future(work)
    while not doing.done():
        await asyncio.wait([doing], timeout=_LOOK_S)
        for service, process in processes.items():
            peaks[service] = max(peaks[service], memory_mib(process))
    await doing
    took = time.monotonic() - began
    used = {s: Usage((cpu_s(p) - before[s]) / took * 1000, peaks[s]) for s, p in processes.items()}
    return Phase(name, (asker.over - over) / took, used)


def _identity(fleet: Fleet, service: str) -> ProcessIdentity:
    found = ProcessIdentity.of(int(fleet.process(service)["pid"]))
    assert found is not None, f"{service} has ended"
    return found


def cpu_s(process: ProcessIdentity) -> float:
    """Return the processor seconds of a process and its children, the ended ones included (proc(5), 14 to 17)."""
    fields = (text.rpartition(")")[2].split() for text in _of_family(process, "stat"))
    return sum(sum(map(int, each[11:15])) for each in fields) / _TICKS


def memory_mib(process: ProcessIdentity) -> float:
    """Return the resident memory of a process and its children; what they share counts once."""
    shares = (line.split() for text in _of_family(process, "smaps_rollup") for line in text.splitlines())
    return sum(int(words[1]) for words in shares if words[0] == "Pss:") / 1024


def _of_family(process: ProcessIdentity, file: str) -> Iterator[str]:
    for member in process.process_tree():
        with suppress(FileNotFoundError, ProcessLookupError):  # a child that has ended meanwhile
            yield Path(f"/proc/{member.pid}/{file}").read_text(encoding="ascii", errors="replace")


async def measure(fleet: Fleet, seconds: float, rate: float, many: int) -> list[Phase]:
    """Every phase, after a warm-up."""
    async with fleet.client() as client:
        await upload(client, "harbour.md", HANDBOOK)
        asker = Asker(client)
        await asker.at_once(2, 5)
        return [
            await phase("idle", fleet, asker, asker.rest(seconds)),
            await phase("steady", fleet, asker, asker.steadily(rate, seconds)),
            await phase(f"{many} at once", fleet, asker, asker.at_once(many, seconds)),
        ]


def table(phases: list[Phase]) -> Iterator[str]:
    """A line for each service, as Markdown: milli-CPUs and MiB of each phase, and of a run."""
    peak, idle = phases[-1], phases[0]
    heads = [f"{each.name}, {each.runs_per_s:.1f} runs/s" for each in phases]
    yield f"| service | {' | '.join(heads)} | processor time of a run |"
    yield "|---" * (len(phases) + 2) + "|"
    for service in SERVICES:
        used = [each.used[service] for each in phases]
        of_a_run = (peak.used[service].millicpu - idle.used[service].millicpu) / peak.runs_per_s
        cells = " | ".join(f"{each.millicpu:.0f}m, {each.memory_mib:.0f} Mi" for each in used)
        yield f"| {service} | {cells} | {of_a_run:.0f} ms |"


def main() -> None:
    """Start a fleet, measure, stop it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each phase")
    parser.add_argument("--rate", type=float, default=1, help="runs per second of the steady phase")
    parser.add_argument("--at-once", type=int, default=20, help="open runs of the last phase")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flotilla-resources-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user where this runs as root
        fleet = Fleet(Path(folder) / "stack")
        fleet.up()
        try:
            phases = asyncio.run(measure(fleet, given.seconds, given.rate, given.at_once))
        finally:
            fleet.down()
    sys.stdout.writelines(f"{line}\n" for line in table(phases))


if __name__ == "__main__":
    main()
