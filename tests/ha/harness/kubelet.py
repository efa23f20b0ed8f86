"""Probes of the services, as the charts declare them: readiness is asked for, what is not alive is killed."""

import os
import signal
import threading
from collections.abc import Sequence
from http import HTTPStatus

import httpx

from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.services import ServiceProcess

_READY_EVERY_S = 5.0
_LIMIT_S = 6.0
_FAILURES = 6
"""In a row: half a minute."""


class Kubelet:
    """One thread for each service. Asking for readiness is more than looking: it finds dead connections."""

    def __init__(self, services: Sequence[ServiceProcess]) -> None:
        self._stopped = threading.Event()
        self.killed: list[str] = []
        """Services that were not alive for too long, each with the last answer."""
        self._threads = [
            threading.Thread(target=self._probe, args=(service,), name=f"probes of {service.name}", daemon=True)
            for service in services
        ]

    def start(self) -> None:
        """Probe from now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; harmless when it was not started."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * _LIMIT_S)

    def _probe(self, service: ServiceProcess) -> None:
        failures = 0
        with httpx.Client(base_url=f"http://{LOOPBACK}:{service.ports['metrics']}", timeout=_LIMIT_S) as client:
            while not self._stopped.wait(_READY_EVERY_S):
                _asked(client, "/readyz")
                answer = _asked(client, "/livez")
                failures = failures + 1 if answer else 0
                if failures >= _FAILURES and service.pid is not None:
                    self.killed.append(f"{service.name}: {answer}")
                    os.kill(service.pid, signal.SIGKILL)
                    failures = 0


def _asked(client: httpx.Client, path: str) -> str:
    """Empty when all is well, else what came instead."""
    try:
        answer = client.get(path)
    except httpx.TransportError as error:
        return repr(error)
    return "" if answer.status_code == HTTPStatus.OK else f"{answer.status_code} {answer.text}"
