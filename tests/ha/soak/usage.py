"""What each process of a fleet uses: memory, connections, file handles, disk. From proc(5)."""

import asyncio
import csv
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.servers.base import LocalServer
from flotilla_devstack.unit import ManagedProcess
from tests.ha.harness.fleet import Fleet
from tests.ha.harness.items import wait_for

_PAGE = 4096
_EVERY_S = 10.0


@dataclass(frozen=True)
class Usage:
    """Of one process and its children, at one time."""

    at_s: float
    name: str
    memory_mb: float
    connections: int
    handles: int
    disk_mb: float


class Recorder:
    """Writes a row for each process every `_EVERY_S`."""

    def __init__(self, fleet: Fleet, file: Path) -> None:
        self._fleet = fleet
        self._file = file
        self._began = time.monotonic()
        self.rows: list[Usage] = []

    async def record(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        with self._file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Usage)])
            while not stop.is_set():
                found = await asyncio.to_thread(lambda: list(self._measured()))
                self.rows += found
                writer.writerows(map(astuple, found))
                file.flush()
                await wait_for(stop, _EVERY_S)

    def _measured(self) -> Iterator[Usage]:
        at_s = round(time.monotonic() - self._began, 1)
        for unit in (*self._fleet.services.values(), *self._fleet.servers.all):
            if (identity := unit.identity) is not None:
                yield _usage(at_s, unit, identity)


def _usage(at_s: float, unit: ManagedProcess, identity: ProcessIdentity) -> Usage:
    family = [member.pid for member in identity.process_tree()]
    handles = [link for pid in family for link in _handles(pid)]
    return Usage(
        at_s,
        unit.name,
        round(sum(map(_memory_mb, family)), 1),
        len({link for link in handles if link.startswith("socket:")}),
        len(handles),
        round(_disk_mb(unit.folder), 1) if isinstance(unit, LocalServer) else round(_size_mb(unit.log), 1),
    )


def _handles(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield str(link.readlink())


def _memory_mb(pid: int) -> float:
    """Resident memory that is the process's own: shared buffers would count once for each backend."""
    with suppress(OSError, ValueError, IndexError):
        resident, shared = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3]
        return (int(resident) - int(shared)) * _PAGE / 2**20
    return 0.0


def _disk_mb(folder: Path) -> float:
    return sum(_size_mb(path) for path in folder.resolve().rglob("*"))


def _size_mb(path: Path) -> float:
    """What it takes on the disk: Kafka's index files have holes."""
    with suppress(OSError):
        return path.stat().st_blocks * 512 / 2**20
    return 0.0
