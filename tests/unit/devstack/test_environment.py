"""The services' variables, and the supervisor's command line."""

from pathlib import Path

import pytest

from flotilla_devstack.services import SERVICES, caller_environment, service_environment
from flotilla_devstack.supervisor import SupervisorOptions, parse_supervisor_options


def test_each_service_is_its_own_role() -> None:
    roles = {name: spec.role for name, spec in SERVICES.items()}
    assert roles == {
        "gateway": "flotilla_gateway",
        "workflow-worker": "flotilla_worker",
        "research-agent": "flotilla_agent_research",
        "writer-agent": "flotilla_agent_write",
        "tool-gateway": "flotilla_agent_mcp",
        "outbox-relay": "flotilla_relay",
        "audit-consumer": "flotilla_audit",
    }


def test_services_listen_on_loopback_with_the_ports_they_are_given() -> None:
    gateway = service_environment("gateway", {"http": 8080, "metrics": 20_001})
    assert gateway["FLOTILLA_HTTP_HOST"] == gateway["FLOTILLA_METRICS_HOST"] == "127.0.0.1"
    assert (gateway["FLOTILLA_HTTP_PORT"], gateway["FLOTILLA_METRICS_PORT"]) == ("8080", "20001")
    worker = service_environment("workflow-worker", {"metrics": 20_002, "temporal_metrics": 20_003, "keys": 20_004})
    assert (worker["FLOTILLA_METRICS_PORT"], worker["FLOTILLA_TEMPORAL_METRICS_PORT"]) == ("20002", "20003")
    assert (worker["FLOTILLA_HTTP_HOST"], worker["FLOTILLA_HTTP_PORT"]) == ("127.0.0.1", "20004")


def test_caller_chooses_the_log_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_LOG_LEVEL", "debug")
    monkeypatch.delenv("FLOTILLA_TEMPORAL_NAMESPACE", raising=False)
    chosen = caller_environment()
    assert chosen["FLOTILLA_LOG_LEVEL"] == "debug"
    assert chosen["FLOTILLA_TEMPORAL_NAMESPACE"] == "default"


@pytest.mark.parametrize(
    "options",
    [
        SupervisorOptions(state=Path("/tmp/a b")),  # noqa: S108 - only parsed
        SupervisorOptions(state=Path("/x"), servers=("redis",), services=(), install=()),
        SupervisorOptions(
            state=Path("/x"), ports=(("temporal.ui", 8233), ("gateway.http", 80)), redis_flavour="valkey"
        ),
    ],
)
def test_options_survive_the_command_line(options: SupervisorOptions) -> None:
    assert parse_supervisor_options(options.to_arguments()) == options
