"""What `flotilla doctor` looks at: this machine, the stack's processes, its servers, gateway, key, model and traces."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from flotilla_cli.errors import CliError, NotFound
from flotilla_cli.local import endpoints, servers
from flotilla_cli.local.stack import devstack_errors, read_local_status, state_folder
from flotilla_cli.target import ConnectionOptions, configured_url, resolve_target
from flotilla_devstack import Stack, StackStatus
from flotilla_devstack import check_prerequisites as examine_machine

CHECK_TIMEOUT_S = 10.0
_AS_IT_SAYS = "change it as the message says"
_SETTINGS = {
    "postgres": "FLOTILLA_POSTGRES_DSN",
    "redis": "FLOTILLA_REDIS_URL",
    "kafka": "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS",
    "temporal": "FLOTILLA_TEMPORAL_ADDRESS",
}
_Check: TypeAlias = Callable[[str], Awaitable[str]]
_CHECKS: Mapping[str, _Check] = {
    "postgres": servers.check_postgres,
    "redis": servers.check_redis,
    "kafka": servers.check_kafka,
    "temporal": servers.check_temporal,
}


@dataclass(frozen=True)
class CheckResult:
    """One check's outcome; `hint` is empty when all is well."""

    name: str
    ok: bool
    detail: str
    hint: str = ""

    def as_json_object(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def run_all_checks(state: Path | None, connection: ConnectionOptions, acts_as: str) -> list[CheckResult]:
    """Every check, in the order in which to fix what is wrong."""
    _log_to_standard_error()
    machine = [
        CheckResult(f"machine/{check.name}", check.ok, check.detail, check.hint) for check in examine_machine(state)
    ]
    named = configured_url(connection)
    stack, running = _stack(state, named)
    addresses = {name: os.environ.get(variable) or running.get(variable) for name, variable in _SETTINGS.items()}
    checks: dict[str, _Check] = {**_CHECKS, "kafka": partial(servers.check_kafka, **_kafka_login(running))}
    reached = [_server(name, address, checks[name]) for name, address in addresses.items() if address]
    # Without a stack there is no gateway of its own: one finding, not two.
    gateway = [_gateway(connection, acts_as)] if named or running else []
    return [*machine, stack, *reached, *gateway, _model(), *_traces()]


def _log_to_standard_error() -> None:
    """What the checks log is for people; standard output is the document's."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def _stack(state: Path | None, named: str | None) -> tuple[CheckResult, Mapping[str, str]]:
    """The local stack's processes, and the addresses of its servers if it runs."""
    try:
        status = read_local_status(state)
    except NotFound:
        return _no_stack("no local stack is running", named), {}
    if status["state"] == "starting":
        return CheckResult(
            "stack", False, "it is still starting", "wait a moment: flotilla status shows how far it is"
        ), {}
    if status["state"] != "ready":
        return _no_stack(f"the local stack is {status['state']}", named), {}
    with devstack_errors(), Stack.attach(state_folder(state)) as attached:
        return _processes(status), attached.environment()


def _no_stack(detail: str, named: str | None) -> CheckResult:
    """A command for another gateway needs none."""
    if named:
        return CheckResult("stack", True, f"{detail}; {named} was named instead")
    return CheckResult("stack", False, detail, "start it with: flotilla up")


def _processes(status: StackStatus) -> CheckResult:
    down = [
        f"{one['name']} is {one['state']}, see {one['log']}" for one in status["processes"] if one["state"] != "running"
    ]
    if down:
        hint = "flotilla logs NAME says why; the supervisor starts it again, or: flotilla down; flotilla up"
        return CheckResult("stack", False, "; ".join(down), hint)
    return CheckResult("stack", True, f"{len(status['processes'])} processes run")


def _kafka_login(running: Mapping[str, str]) -> dict[str, str]:
    """The settings with which the local stack's administrator logs in; elsewhere the environment has them."""
    if os.environ.get(_SETTINGS["kafka"]):
        return {}
    prefix = "FLOTILLA_KAFKA_"
    names = [name for name in running if name.startswith(prefix) and name != _SETTINGS["kafka"]]
    return {name.removeprefix("FLOTILLA_").lower(): running[name] for name in names}


def _server(name: str, address: str, check: _Check) -> CheckResult:
    from flotilla.contracts.errors import ConfigurationError

    try:
        return CheckResult(name, True, asyncio.run(_within_time(check(address))))
    except CliError as error:
        return CheckResult(name, False, str(error), error.hint)
    except ConfigurationError as error:
        return CheckResult(name, False, str(error), _AS_IT_SAYS)
    except Exception as error:  # noqa: BLE001 - whatever a check runs into is its finding
        detail = f"{_without_password(address)}: {str(error) or type(error).__name__}"
        return CheckResult(name, False, detail, f"check that it runs and that {_SETTINGS[name]} is right")


async def _within_time(check: Awaitable[str]) -> str:
    async with asyncio.timeout(CHECK_TIMEOUT_S):
        return await check


def _without_password(address: str) -> str:
    """`postgresql://user:***@host` of `postgresql://user:secret@host`."""
    head, at, place = address.rpartition("@")
    scheme, separator, user = head.rpartition("://")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{place}" if at else address


def _gateway(connection: ConnectionOptions, acts_as: str) -> CheckResult:
    from flotilla_cli.gateway import GatewayClient

    try:
        target = resolve_target(connection, acts_as)
        with GatewayClient(target) as gateway:
            gateway.get("/sessions", limit=1)
    except CliError as error:
        return CheckResult("gateway", False, str(error), error.hint or "flotilla logs gateway shows its log")
    whose = f"the local key of {target.name}" if target.name else "the given key"
    return CheckResult("gateway", True, f"{target.url} accepts {whose}")


def _model() -> CheckResult:
    from flotilla.config import LlmSettings, load_settings
    from flotilla.contracts.errors import ConfigurationError

    try:
        settings = load_settings(LlmSettings)
        if not (settings.openai_base_url or settings.openai_api_key):
            return CheckResult(
                "model", True, "built-in extractive model (no OPENAI_API_KEY or OPENAI_BASE_URL is set here)"
            )
        if not settings.llm_model:
            return CheckResult(
                "model", False, "an endpoint is set, but no model", "set FLOTILLA_LLM_MODEL to one that it serves"
            )
        return CheckResult("model", True, asyncio.run(_within_time(endpoints.check_model_endpoint(settings))))
    except ConfigurationError as error:
        return CheckResult("model", False, str(error), _AS_IT_SAYS)
    except TimeoutError:
        return CheckResult("model", False, f"no answer within {CHECK_TIMEOUT_S:g} s", "check OPENAI_BASE_URL")
    except CliError as error:
        return CheckResult("model", False, str(error), error.hint)


def _traces() -> list[CheckResult]:
    """Nothing to look at where traces go nowhere."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return []
    try:
        return [CheckResult("traces", True, endpoints.check_trace_receiver())]
    except CliError as error:
        return [CheckResult("traces", False, str(error), error.hint)]
