"""A memory limit that a process hits: the kernel's own, by a control group (cgroups(7)), as of a pod."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.waiting import wait_until


@dataclass(frozen=True)
class _Version:
    """Where groups are, and the names of their files."""

    root: Path
    limit: str
    events: str


_ONE = _Version(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.oom_control")
_TWO = _Version(Path("/sys/fs/cgroup"), "memory.max", "memory.events")
_MEMBERS = "cgroup.procs"


@contextmanager
def no_page_more(process: ProcessIdentity) -> Iterator["Starved"]:
    """Refuse every further page to a process and its children: at work, the kernel ends it within moments.

    What it has stays with the group from which it comes, so the limit counts for new pages alone.
    """
    version = _ONE if _ONE.root.is_dir() else _TWO
    folder = version.root / f"flotilla-{process.pid}"
    try:
        folder.mkdir()
    except OSError as error:
        raise AssertionError(f"no memory limit can be set: {error} (the scenario needs root and cgroups)") from error
    try:
        for member in process.process_tree():
            _move(member.pid, folder)
        (folder / version.limit).write_text("0", encoding="ascii")
        yield Starved(folder / version.events)
    finally:
        for pid in _members(folder):
            _move(pid, version.root)
        wait_until(lambda: not _members(folder), timeout_s=30, what=f"the end of {folder}")
        folder.rmdir()


def _members(folder: Path) -> list[str]:
    return (folder / _MEMBERS).read_text(encoding="ascii").split()


def _move(pid: int | str, folder: Path) -> None:
    with suppress(ProcessLookupError):  # it has ended
        (folder / _MEMBERS).write_text(str(pid), encoding="ascii")


@dataclass(frozen=True)
class Starved:
    """Processes that get no page more."""

    _events: Path

    def kills(self) -> int:
        """How many the kernel has ended for want of memory."""
        counts = dict(line.split() for line in self._events.read_text(encoding="ascii").splitlines())
        return int(counts["oom_kill"])
