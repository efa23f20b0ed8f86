"""The protocol of a server."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.unit import ManagedProcess

Report = Callable[[str], None]


@dataclass(frozen=True)
class Home:
    """Where one server lives: its data folder, its log, its ports, and its owner's ledger."""

    folder: Path
    log: Path
    ports: Mapping[str, int]
    ledger: ProcessLedger


class LocalServer(ManagedProcess):
    """A server on loopback: `prepare` → `start` → `wait_ready` → `provision` → `stop`, each safe to repeat."""

    kind: ClassVar[Literal["server", "service"]] = "server"
    port_names: ClassVar[tuple[str, ...]]

    def __init__(self, name: str, home: Home) -> None:
        super().__init__(name, ports=home.ports, log=home.log, ledger=home.ledger)
        self.folder = home.folder

    @abstractmethod
    def prepare(self, report: Report, cancelled: threading.Event | None = None) -> None:
        """Everything before the first start: find programs, download, make the data folder. Says what takes long."""

    def provision(self) -> None:
        """What needs the running server, such as making a database; by default nothing."""

    @abstractmethod
    def find_version(self) -> str:
        """Name and version of the running server, for people."""
