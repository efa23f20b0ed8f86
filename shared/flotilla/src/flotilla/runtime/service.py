"""How every service starts, waits for what it needs, and stops."""

import asyncio
import copy
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

import structlog

from flotilla.config import ServiceSettings, load_settings
from flotilla.contracts.errors import ConfigurationError
from flotilla.runtime.health import Health, health_server
from flotilla.runtime.stalls import dump_stacks_on_stall
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.runtime.supervision import JobSupervisor
from flotilla.telemetry import configure_logs, configure_metrics, configure_traces

_LAST_METRICS_MS = 2000
EXIT_OK, EXIT_FAILED, EXIT_MISUSE = 0, 1, 2

log = structlog.get_logger(__name__)
S = TypeVar("S", bound=ServiceSettings)


class Runtime:
    """What a running service knows of its process."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.instance = f"{service}-{socket.gethostname()}-{os.getpid()}"
        """Unique among living processes: consumer name, lease owner."""
        self.health = Health()
        self.stop = asyncio.Event()
        """Set by SIGTERM or SIGINT: take no new work, finish or hand back what is in hand, return."""
        self.supervisor = JobSupervisor(self.health, self.stop, self.request_stop)
        """Runs the process's long-lived tasks."""

    def view(self, stop: asyncio.Event) -> "Runtime":
        """The same process, as a job with a stop event of its own sees it."""
        seen = copy.copy(self)
        seen.stop = stop
        return seen

    def request_stop(self, reason: str) -> None:
        """Ask the service to drain and return."""
        log.info("stopping", reason=reason)
        self.health.stopping = True
        self.stop.set()

    async def wait_until_ready(self, retry_s: float = 0.5) -> bool:
        """Wait until every check passes; False when asked to stop first. Each new reason is logged once."""
        told: dict[str, str] = {}
        while not self.stop.is_set():
            problems = await self.health.readiness_problems()
            # Loops that have not begun yet are not stuck: a dependency that is away must not get the pod restarted.
            self.health.note_progress_of_all()
            if not problems:
                log.info("ready")
                return True
            if problems != told:
                log.warning("waiting_for_dependencies", problems=problems)
                told = problems
            await self.sleep(retry_s)
        return False

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the service is asked to stop."""
        await sleep_or_stop(self.stop, seconds)


def serve(service: str, settings_type: type[S], run: Callable[[S, Runtime], Awaitable[None]]) -> int:
    """Run a service until SIGTERM or SIGINT and return the exit code. `run` returns when `runtime.stop` is set."""
    try:
        settings = load_settings(settings_type)
    except ConfigurationError as error:
        sys.stderr.write(f"{service}: {error}\n")
        return EXIT_MISUSE
    configure_logs(service, settings.log_level, settings.log_format)
    # What was imported stays; looking through it for garbage now and then would hold everything up for 40 ms.
    gc.collect()
    gc.freeze()
    return asyncio.run(_serve(service, settings, run))


async def _serve(service: str, settings: S, run: Callable[[S, Runtime], Awaitable[None]]) -> int:
    runtime = Runtime(service)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.request_stop, number.name)
    traces = configure_traces(service, settings.otlp_endpoint, settings.trace_sample_ratio)
    metrics = configure_metrics(service, settings.otlp_endpoint)
    try:
        async with AsyncExitStack() as stack:
            server = health_server(runtime.health, settings.metrics_host, settings.metrics_port)
            port = await stack.enter_async_context(
                server.serving(partial(runtime.supervisor.task_ended_early, "health server"))
            )
            await stack.enter_async_context(dump_stacks_on_stall())
            log.info("started", metrics_port=port, instance=runtime.instance)
            await run(settings, runtime)
    except ConfigurationError as error:
        log.error("misconfigured", error=str(error))  # noqa: TRY400 - the message is the fix, a traceback hides it
        return EXIT_MISUSE
    except Exception:
        log.exception("crashed")
        return EXIT_FAILED
    finally:
        traces.shutdown()
        if metrics is not None:
            metrics.shutdown(timeout_millis=_LAST_METRICS_MS)
    log.info("stopped")
    return EXIT_OK
