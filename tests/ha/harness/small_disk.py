"""A file system of its own for a server's data, soon full. Needs the right to mount, as root has."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flotilla_devstack.servers.base import LocalServer

ROOM = 48 * 2**20
_CHUNK = bytes(65_536)


class SmallDisk:
    """Where `data` is while the block of `small_disk` runs."""

    def __init__(self, data: Path) -> None:
        self._filler = data / "filler"

    def fill(self) -> None:
        """Leave not a byte."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(_CHUNK):
                pass

    def empty(self) -> None:
        """Give back what `fill` took; harmless when nothing was taken."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(server: LocalServer, data: Path) -> Iterator[SmallDisk]:
    """Move the data of a server to a disk with `ROOM` to spare, and back; the server is stopped twice for it."""
    aside = data.with_name(f"{data.name}.aside")
    server.stop()
    data.rename(aside)
    data.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={_size(aside) + ROOM}", "tmpfs", str(data))
    try:
        _copy(aside, data)
        _started(server)
        disk = SmallDisk(data)
        yield disk
        disk.empty()
        server.stop()
        shutil.rmtree(aside)
        _copy(data, aside)
    finally:
        server.stop()
        _run("umount", str(data))
        data.rmdir()
        aside.rename(data)
    _started(server)


def _started(server: LocalServer) -> None:
    server.start()
    server.wait_ready()


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> None:
    """With owners, modes and holes, the folder's own included."""
    target.mkdir(exist_ok=True)
    _run("cp", "--archive", "--sparse=always", f"{source}/.", str(target))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()} (scenarios of full disks need root)"
