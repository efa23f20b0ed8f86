"""Flotilla's seven services as processes, and the environment that they understand."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar, Literal

from flotilla_devstack import http
from flotilla_devstack.folders import StateDir
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessCommand
from flotilla_devstack.unit import ManagedProcess

DATABASE = "flotilla"
DEFAULT_HTTP_PORT = 8080  # the CLI's default URL


@dataclass(frozen=True)
class ServiceSpec:
    """One service: its module is run as `python -m <module>.main`, as a role of PostgreSQL."""

    name: str
    module: str
    role: str
    port_variables: Mapping[str, str]
    agent: str | None = None
    """The agent's name, of one that is not among the seven services."""
    folder: Path | None = None
    """Where its code is."""
    command: tuple[str, ...] = ()
    """What starts an agent in another language, in its folder."""


METRICS = {"metrics": "FLOTILLA_METRICS_PORT"}
AGENT_ROLE = "flotilla_agent_{}"
"""The role of an agent, by its name; the installer makes it."""
SERVICES: Mapping[str, ServiceSpec] = {
    spec.name: spec
    for spec in (
        ServiceSpec("gateway", "gateway", "flotilla_gateway", {"http": "FLOTILLA_HTTP_PORT", **METRICS}),
        ServiceSpec(
            "workflow-worker",
            "workflow_worker",
            "flotilla_worker",
            {"keys": "FLOTILLA_HTTP_PORT", **METRICS, "temporal_metrics": "FLOTILLA_TEMPORAL_METRICS_PORT"},
        ),
        ServiceSpec("research-agent", "research_agent", AGENT_ROLE.format("research"), METRICS),
        ServiceSpec("writer-agent", "writer_agent", AGENT_ROLE.format("write"), METRICS),
        ServiceSpec(
            "tool-gateway", "tool_gateway", AGENT_ROLE.format("mcp"), {"http": "FLOTILLA_HTTP_PORT", **METRICS}
        ),
        ServiceSpec("outbox-relay", "outbox_relay", "flotilla_relay", METRICS),
        ServiceSpec("audit-consumer", "audit_consumer", "flotilla_audit", METRICS),
    )
}
FOUND_AT = {
    "tool-gateway": ("http", "FLOTILLA_TOOL_GATEWAY_URL"),
    "workflow-worker": ("keys", "FLOTILLA_SESSION_KEYS_URL"),
}
"""By service that agents call: which of its ports, and the variable that says where it is."""
BUILT_IN_AGENTS = ("research", "write", "mcp")


class ServiceProcess(ManagedProcess):
    """One service (or any Python module that serves `/readyz` on its metrics port) as a child process.

    It inherits the caller's environment (so OPENAI_*, FLOTILLA_LLM_MODEL and OTEL_* pass through) with `env` on top.
    `terminate` and `stop` are SIGTERM with a drain, `kill` is kill -9, `pause` and `resume` are SIGSTOP and SIGCONT.
    """

    kind: ClassVar[Literal["server", "service"]] = "service"
    stop_signal = signal.SIGTERM
    stop_timeout_s = 15.0
    start_timeout_s = 240.0  # an overloaded machine takes two minutes to import a dozen services at once

    def __init__(
        self,
        name: str,
        *,
        env: Mapping[str, str],
        ports: Mapping[str, int],
        log: Path,
        ledger: ProcessLedger,
        argv: tuple[str, ...] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """`argv` defaults to `python -m <module>.main` of the service called `name`; `ports` must have `metrics`."""
        super().__init__(name, ports=ports, log=log, ledger=ledger)
        self.env = dict(env)
        self._argv = argv or (sys.executable, "-m", f"{SERVICES[name].module}.main")
        self._cwd = cwd or Path.cwd()
        self._last_answer = ""

    @property
    def url(self) -> str:
        """The address of the service's own API, else of its metrics and health routes."""
        return f"http://{LOOPBACK}:{self.ports.get('http', self.ports['metrics'])}"

    def command(self) -> ProcessCommand:
        """Killed by the kernel when its owner dies: a service has to stand that anyway."""
        return ProcessCommand(self._argv, {**os.environ, "PYTHONUNBUFFERED": "1", **self.env}, self._cwd)

    def probe(self) -> bool:
        """`GET /readyz` on the metrics port answers 200."""
        status, body = http.get(self.ports["metrics"], "/readyz")
        self._last_answer = f"/readyz answered {status}: {body[:500]}" if status else body
        return status == HTTPStatus.OK

    def why_not_ready(self) -> str:
        """The last answer of `/readyz`, which names what the service waits for."""
        return self._last_answer


def service_environment(name: str, ports: Mapping[str, int]) -> dict[str, str]:
    """The variables of one service beside the addresses of the servers: its ports, and loopback for all of them."""
    variables = SERVICES[name].port_variables if name in SERVICES else METRICS
    given = {variable: str(ports[port]) for port, variable in variables.items()}
    return {"FLOTILLA_METRICS_HOST": LOOPBACK, "FLOTILLA_HTTP_HOST": LOOPBACK, **given}


def signing_key_environment(name: str, state_dir: StateDir) -> dict[str, str]:
    """Where those who sign find their private key, and those who verify the public one."""
    if name.endswith("-agent") or name == "tool-gateway":
        return {"FLOTILLA_TICKET_PUBLIC_KEY_FILE": str(state_dir.ticket_public_key_file)}
    files = {
        "audit-consumer": {"FLOTILLA_AUDIT_SIGNING_KEY_FILE": state_dir.signing_key_file},
        "gateway": {"FLOTILLA_AUDIT_PUBLIC_KEY_FILE": state_dir.public_key_file},
        "workflow-worker": {"FLOTILLA_TICKET_KEY_FILE": state_dir.ticket_key_file},
    }
    return {variable: str(file) for variable, file in files.get(name, {}).items()}


def console_environment(name: str, temporal_ui_url: str | None) -> dict[str, str]:
    """The console's variables: people log in with the keys that `up` made, and can look into Temporal."""
    if name != "gateway":
        return {}
    return {
        "FLOTILLA_CONSOLE_KEY_LOGIN": "true",
        **({"FLOTILLA_TEMPORAL_UI_URL": temporal_ui_url} if temporal_ui_url else {}),
    }


def caller_environment() -> dict[str, str]:
    """What the caller's environment may choose, else the default."""
    defaults = {
        "FLOTILLA_TEMPORAL_NAMESPACE": "default",
        "FLOTILLA_LOG_LEVEL": "info",
        "FLOTILLA_LOG_FORMAT": "json",
        "FLOTILLA_APPROVAL_POLICY": "builtin:local",
        "FLOTILLA_DRAIN_S": "10",  # below the 15 s after which a service that was asked to stop is killed
    }
    return {name: os.environ.get(name, default) for name, default in defaults.items()}
