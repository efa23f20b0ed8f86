"""Where a whole run of the tests keeps its files: in memory where there is plenty.

A database of a test's own is 650 files. On a disk's file system making and removing them takes ten times as long as in
memory, and so for topics, stacks and virtual environments: a third of what the tests need of the processors.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - the folders in it have random names
_PREFIX = "flotilla-tests-"
_FREE_BYTES = 3 * 1024**3
_AVAILABLE_KB = 6 * 1024**2
"""What has to be free in the machine: the files of a whole run, and the processes."""


@contextmanager
def scratch() -> Iterator[Path]:
    """The folder for temporary files of this process and of those that it starts, as long as the block lasts."""
    _clear_abandoned()  # first: it may be what fills the memory
    memory = _MEMORY if _is_fit(_MEMORY) else None
    before = os.environ.get("TMPDIR")
    with open_folder(f"{_PREFIX}{os.getpid()}", memory) as folder:
        _use(str(folder))
        try:
            yield folder
        finally:
            _use(before)


def _use(folder: str | None) -> None:
    os.environ.pop("TMPDIR", None)
    if folder is not None:
        os.environ["TMPDIR"] = folder
    tempfile.tempdir = folder


def _is_fit(folder: Path) -> bool:
    """Programs run in it (containers often forbid that), and there is room."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    of = os.statvfs(folder)
    return not of.f_flag & os.ST_NOEXEC and of.f_bavail * of.f_frsize > _FREE_BYTES and _available_kb() > _AVAILABLE_KB


def _available_kb() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _clear_abandoned() -> None:
    """What runs left in memory that were killed."""
    for folder in _MEMORY.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_folder(name: str, within: Path | None = None) -> Iterator[Path]:
    """A folder that PostgreSQL reaches where it runs as another user, unlike those that pytest makes."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=within))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
