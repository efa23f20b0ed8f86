"""The six services over replicated servers, each started again when it ends, as Kubernetes does."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from flotilla_devstack.keeper import ProcessWatchdog
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.progress import ignore_progress
from flotilla_devstack.services import (
    SERVICES,
    ServiceProcess,
    caller_environment,
    service_environment,
    signing_key_environment,
)
from flotilla_devstack.startup import run_in_parallel
from flotilla_devstack.tools import run_program
from tests.ha.harness.kubelet import Kubelet
from tests.ha.harness.memory import no_page_more
from tests.ha.harness.servers import DATABASE, Servers
from tests.support.waiting import eventually

_TICK_S = 0.1
_INSTALL_S = 180.0
# No traces, no model but the built-in one.
_QUIET = {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OPENAI_API_KEY": ""}


class Fleet:
    """Servers and services in one folder."""

    def __init__(self, folder: Path) -> None:
        self.servers = Servers(folder)
        self.services = {name: self._make(name) for name in SERVICES}
        self._kubelet = Kubelet(list(self.services.values()))
        self._stopped = threading.Event()
        self._keeping = threading.Thread(target=self._keep, name="keeper", daemon=True)

    @property
    def url(self) -> str:
        """Of the API."""
        return self.services["gateway"].url

    def key(self, name: str) -> str:
        """The API key of alice, bob or admin."""
        return cast("str", json.loads(self.servers.state.keys_file.read_text())[name])

    def start(self) -> None:
        """Bring everything up."""
        self.servers.start()
        self._install()
        run_in_parallel(list(self.services.values()), _start, threading.Event())
        self._keeping.start()
        self._kubelet.start()

    def stop(self) -> None:
        """End everything."""
        self._kubelet.stop()
        self._stopped.set()
        if self._keeping.is_alive():
            self._keeping.join(10)
        for service in self.services.values():
            if service.is_running():
                service.kill()
        self.servers.stop()

    def restarts(self) -> int:
        """How often a service ended and was started again."""
        return sum(service.restarts for service in self.services.values())

    def not_alive(self) -> list[str]:
        """Services that were killed because `/livez` failed for too long, each with its last answer."""
        return list(self._kubelet.killed)

    async def kill(self, name: str) -> None:
        """SIGKILL; returns when the keeper has started another process."""
        process = self._process(name)
        os.kill(process.pid, signal.SIGKILL)
        await self._another(name, process)

    async def starve(self, name: str) -> None:
        """Have it reach its memory limit at work, so that the kernel kills it; returns as `kill` does."""
        process = self._process(name)
        with no_page_more(process) as starved:
            await eventually(lambda: not process.is_alive(), timeout_s=60)
            assert starved.kills(), f"{name} ended by itself"
        await self._another(name, process)

    async def all_ready(self, timeout_s: float = 120) -> None:
        """Wait until every service runs and is ready."""
        for service in self.services.values():
            await asyncio.to_thread(_wait_ready, service, timeout_s)

    def cli(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`flotilla ARGUMENTS` as an administrator."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "flotilla"), *arguments],
            env={**os.environ, "FLOTILLA_URL": self.url, "FLOTILLA_TOKEN": self.key("admin"), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def log_of(self, service: str) -> str:
        """Everything that a service logged."""
        return self.services[service].log_text(whole=True)

    def _process(self, name: str) -> ProcessIdentity:
        process = self.services[name].identity
        assert process is not None, f"{name} does not run"
        return process

    async def _another(self, name: str, former: ProcessIdentity) -> None:
        await eventually(lambda: self.services[name].pid not in (None, former.pid), timeout_s=60)

    def _make(self, name: str) -> ServiceProcess:
        ports = self.servers.ports(name, tuple(SERVICES[name].port_variables))
        environment = {
            **self.servers.environment(SERVICES[name].role),
            **caller_environment(),
            **service_environment(name, ports),
            **signing_key_environment(name, self.servers.state),
            **_QUIET,
        }
        log = self.servers.state.log_file(name)
        return ServiceProcess(
            name, env=environment, ports=ports, log=log, ledger=self.servers.ledger, cwd=self.servers.state.logs
        )

    def _install(self) -> None:
        """By a DSN with two hosts, the standby first: the installer finds the one that accepts writes."""
        state, pair = self.servers.state, self.servers.postgres
        hosts = ",".join(f"{LOOPBACK}:{node.ports['postgres']}" for node in (pair.standby, pair.primary))
        environment = {
            **os.environ,
            **self.servers.environment("postgres"),
            "FLOTILLA_POSTGRES_DSN": f"postgresql://postgres@{hosts}/{DATABASE}",
        }
        files = {
            "--keys-file": state.keys_file,
            "--signing-key-file": state.signing_key_file,
            "--ticket-key-file": state.ticket_key_file,
        }
        argv = (sys.executable, "-m", "flotilla.install", *(str(word) for pair in files.items() for word in pair))
        run_program(argv, log=state.log_file("install"), cwd=state.logs, env=environment, timeout_s=_INSTALL_S)

    def _keep(self) -> None:
        keeper = ProcessWatchdog(list(self.services.values()), ignore_progress)
        while not self._stopped.wait(_TICK_S):
            keeper.tick(time.monotonic())


def _start(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()


def _wait_ready(service: ServiceProcess, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not (service.is_running() and service.is_ready()):
        assert time.monotonic() < deadline, f"{service.name} is not ready: {service.why_not_ready()}"
        time.sleep(_TICK_S)


@contextmanager
def running_fleet(folder: Path) -> Iterator[Fleet]:
    """A fleet that lives as long as the block."""
    fleet = Fleet(folder)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()
