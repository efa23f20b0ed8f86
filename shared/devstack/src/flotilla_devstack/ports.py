"""Loopback ports: chosen free once, then kept in the state folder so that addresses stay the same.

Between the choice and the moment when the server listens, a claim keeps other stacks away.
"""

import json
import random
import socket
import weakref
from collections.abc import Mapping
from pathlib import Path

from flotilla_devstack.errors import PortTakenError
from flotilla_devstack.folders import write_atomically

LOOPBACK = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections (32768 on, ip(7)): one of those could hold a port of ours
# for a moment between two starts.
_FIRST, _LAST = 20_000, 32_000
_TRIES = 200


class PortReservations:
    """Ports that other stacks leave alone. Freed by `release_all_ports`, and by the kernel when this process ends.

    A claim is a name in the kernel's table of Unix sockets (unix(7), abstract names): like a port, it exists once in a
    network namespace, no matter who asks for it.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}
        self._closer = weakref.finalize(self, _close_all, self._held)

    def take(self, port: int) -> bool:
        """Claim a port on which a server could listen now; False when it is somebody else's."""
        if port in self._held:
            return True
        claim = _claim(port)
        if claim is None:
            return False
        if not _can_listen(port):
            claim.close()
            return False
        self._held[port] = claim
        return True

    def release_all_ports(self) -> None:
        """Give all of them back; harmless when repeated."""
        _close_all(self._held)


def _close_all(claims: dict[int, socket.socket]) -> None:
    while claims:
        claims.popitem()[1].close()


def _claim(port: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0flotilla-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now, and no stack has claimed it."""
    claims = PortReservations()
    try:
        return claims.take(port)
    finally:
        claims.release_all_ports()


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free loopback port, drawn at random so that stacks that start at once do not meet."""
    for _ in range(_TRIES):
        port = random.randrange(_FIRST, _LAST)  # noqa: S311 - no secret
        if is_port_free(port):
            return port
    raise PortTakenError(f"found no free loopback port between {_FIRST} and {_LAST}")


def check_ports_free(requested: Mapping[str, int]) -> None:
    """Look at ports that were asked for by number.

    Raises:
        PortTakenError: one is in use.
    """
    for name, port in requested.items():
        if not is_port_free(port):
            raise _taken(name, port)


def _taken(name: str, port: int) -> PortTakenError:
    return PortTakenError(f"port {port}, asked for as {name}, is in use; free it or ask for another")


class PortAssignments:
    """The ports of one stack under names like `temporal.ui`, kept in a JSON file.

    A port asked for by number is used or refused; one drawn earlier is used again if it is still free.
    """

    def __init__(self, path: Path, requested: Mapping[str, int], preferred: Mapping[str, int] | None = None) -> None:
        self._path = path
        self._requested = dict(requested)
        self._preferred = dict(preferred or {})
        self._claims = PortReservations()
        self._book: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def assign_ports(self, owner: str, names: tuple[str, ...]) -> dict[str, int]:
        """The ports of one process by their short names, claimed and written down before they are returned."""
        ports = {name: self._choose(f"{owner}.{name}") for name in names}
        write_atomically(self._path, json.dumps(self._book, indent=2) + "\n")
        return ports

    def release_ports(self) -> None:
        """Give the claims back; the ports stay written down."""
        self._claims.release_all_ports()

    def _choose(self, key: str) -> int:
        if key in self._requested:
            port = self._checked(key)
        else:
            wishes = [self._book.get(key), self._preferred.get(key)]
            others = {port for name, port in self._book.items() if name != key}
            port = next((p for p in wishes if p and p not in others and self._claims.take(p)), None) or self._draw(
                others
            )
        self._book[key] = port
        return port

    def _checked(self, key: str) -> int:
        port = self._requested[key]
        if not self._claims.take(port):
            raise _taken(key, port)
        return port

    def _draw(self, others: set[int]) -> int:
        while (port := free_port()) in others or not self._claims.take(port):
            pass
        return port
