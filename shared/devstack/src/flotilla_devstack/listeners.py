"""Who listens on a loopback port: one of our processes, or a stranger that was there first (proc(5), net/tcp)."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from flotilla_devstack.process import ProcessIdentity

_LISTENING = "0A"
# 127.0.0.1 and any address, in IPv4 and as IPv6 shows them, as 32-bit words in the byte order of x86 and ARM.
_LOOPBACK = frozenset({"0100007F", "00000000", "0000000000000000FFFF00000100007F", "0" * 32})


def ports_of_other_processes(ports: Iterable[int], family: Iterable[ProcessIdentity]) -> list[int]:
    """Return those of `ports` on which a process listens that is not of this family."""
    listening = {port: inode for port, inode in _listeners() if port in set(ports)}
    ours = {inode for member in family for inode in _sockets(member.pid)} if listening else set()
    return sorted(port for port, inode in listening.items() if inode not in ours)


def _listeners() -> Iterator[tuple[int, str]]:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == _LISTENING and address in _LOOPBACK:
                yield int(port, 16), fields[9]


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets; none once it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    yield target[len("socket:[") : -1]
