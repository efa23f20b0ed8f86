"""Loopback ports: chosen free once, then kept in the state folder so that addresses stay the same."""

import json
import random
import socket
from collections.abc import Mapping
from pathlib import Path

from flotilla_devstack.errors import PortTakenError
from flotilla_devstack.folders import write_atomically

LOOPBACK = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections (32768 on, ip(7)): one of those could hold a port of ours
# for a moment between two starts.
_FIRST, _LAST = 20_000, 32_000
_TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
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
        if is_free(port):
            return port
    raise PortTakenError(f"found no free loopback port between {_FIRST} and {_LAST}")


def check_free(requested: Mapping[str, int]) -> None:
    """Look at ports that were asked for by number.

    Raises:
        PortTakenError: one is in use.
    """
    for name, port in requested.items():
        if not is_free(port):
            raise PortTakenError(f"port {port}, asked for as {name}, is in use; free it or ask for another")


class PortBook:
    """The ports of one stack under names like `temporal.ui`, kept in a JSON file.

    A port asked for by number is used or refused; one drawn earlier is used again if it is still free, else drawn anew.
    """

    def __init__(self, path: Path, requested: Mapping[str, int], preferred: Mapping[str, int] | None = None) -> None:
        self._path = path
        self._requested = dict(requested)
        self._preferred = dict(preferred or {})
        self._book: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def assign(self, owner: str, names: tuple[str, ...]) -> dict[str, int]:
        """The ports of one process by their short names, written down before they are returned."""
        ports = {name: self._choose(f"{owner}.{name}") for name in names}
        write_atomically(self._path, json.dumps(self._book, indent=2) + "\n")
        return ports

    def _choose(self, key: str) -> int:
        if key in self._requested:
            port = self._checked(key)
        else:
            wishes = [self._book.get(key), self._preferred.get(key)]
            others = {port for name, port in self._book.items() if name != key}
            port = next((p for p in wishes if p and p not in others and is_free(p)), None) or self._draw(others)
        self._book[key] = port
        return port

    def _checked(self, key: str) -> int:
        port = self._requested[key]
        check_free({key: port})
        return port

    def _draw(self, others: set[int]) -> int:
        while (port := free_port()) in others:
            pass
        return port
