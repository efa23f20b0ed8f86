"""Runs the sidecar: a member of the agent's group for as long as a worker is connected."""

import asyncio
import os
import secrets
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

import structlog

from flotilla.agent.service import STOP_MARGIN_AFTER_DRAIN_S, add_agent_readiness_checks, make_agent_jobs
from flotilla.agent.session_keys import open_agent_pool
from flotilla.agent.sidecar.api import SidecarApi
from flotilla.agent.sidecar.settings import SidecarSettings
from flotilla.agent.sidecar.worker import ConnectedWorker
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.bus import Redis, connect_redis
from flotilla.contracts.errors import ConfigurationError
from flotilla.llm import LanguageModel, TokenLimits, create_model, create_money_budget
from flotilla.postgres import Pool
from flotilla.runtime import Job, Runtime
from flotilla.runtime.health import http_server
from flotilla.runtime.http_limits import HttpLimits
from flotilla.runtime.stopping import wait_for_any_event

_LOOPBACK = "127.0.0.1"
_LIMITS = HttpLimits(connections_per_address=4_096)
_SIDECAR_KEY_BYTES = 32
_CHILD_EXIT_TIMEOUT_S = 5.0
_HIDDEN_VARIABLE_PREFIXES = ("FLOTILLA_", "OPENAI_", "OTEL_")

log = structlog.get_logger(__name__)


async def serve_sidecar_workers(command: Sequence[str], settings: SidecarSettings, runtime: Runtime) -> None:
    """Serve workers, or the one that `command` starts, until `runtime.stop`.

    Raises:
        ConfigurationError: without a command there must be a key, and the files of the settings must be as they should.
    """
    if not command and settings.sidecar_key is None:
        raise ConfigurationError("set FLOTILLA_SIDECAR_KEY, or give the command that starts the agent's program")
    key = settings.sidecar_key.get_secret_value() if settings.sidecar_key else secrets.token_urlsafe(_SIDECAR_KEY_BYTES)
    desk = SidecarApi(settings.agent_name, key)
    policy = ReloadingPolicyFile(settings.approval_policy)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_agent_pool(settings, application=runtime.service))
        redis = await stack.enter_async_context(
            connect_redis(settings.redis_url.get_secret_value(), name=runtime.service)
        )
        model = create_model(settings)
        stack.push_async_callback(model.close)
        add_agent_readiness_checks(runtime, pool, redis, settings.agent_name)
        if not await runtime.wait_until_ready():
            return
        runtime.health.add_check("worker", desk.check_worker_connected)
        server = http_server(desk.make_app(), _LOOPBACK, settings.sidecar_port, grace_s=0, limits=_LIMITS)
        port = await stack.enter_async_context(
            server.serving(partial(runtime.supervisor.task_ended_early, "sidecar server"))
        )
        log.info("sidecar_listening", port=port)
        shift = _WorkerServing(desk, settings, runtime, pool, redis, model, policy)
        jobs = [
            Job(name="workers", work=shift.serve_workers_in_turn),
            Job(name="policy", work=policy.reload_until_stopped),
        ]
        if command:
            found = {"FLOTILLA_SIDECAR_URL": f"http://{_LOOPBACK}:{port}", "FLOTILLA_SIDECAR_KEY": key}
            jobs.append(Job(name="program", work=partial(_run_worker_program, command, found), stuck_after_s=None))
        await runtime.supervisor.run(
            *jobs, limit_s=settings.drain_s + STOP_MARGIN_AFTER_DRAIN_S + _CHILD_EXIT_TIMEOUT_S
        )


class _WorkerServing:
    """Makes the process a member of the agent's group whenever a worker is there."""

    def __init__(  # noqa: PLR0917 - what it needs, once
        self,
        desk: SidecarApi,
        settings: SidecarSettings,
        runtime: Runtime,
        pool: Pool,
        redis: Redis,
        model: LanguageModel,
        policy: ReloadingPolicyFile,
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._runtime = runtime
        self._pool = pool
        self._redis = redis
        self._model = model
        self._policy = policy

    async def serve_workers_in_turn(self, stop: asyncio.Event) -> None:
        """Serve one worker after the other."""
        while (worker := await self._wait_for_worker_or_stop(stop)) is not None:
            try:
                await self._serve_worker(worker, stop)
            finally:
                worker.end_task_stream()

    async def _wait_for_worker_or_stop(self, stop: asyncio.Event) -> ConnectedWorker | None:
        arrival = asyncio.create_task(self._desk.wait_for_worker())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([arrival, stopping], return_when=asyncio.FIRST_COMPLETED)
            return arrival.result() if arrival.done() and not stop.is_set() else None
        finally:
            arrival.cancel()
            stopping.cancel()

    async def _serve_worker(self, worker: ConnectedWorker, stop: asyncio.Event) -> None:
        """Take tasks for `worker` until it leaves or `stop`; then let it finish what it has."""
        membership = make_agent_jobs(
            worker.agent, self._settings, self._runtime.instance, self._pool, self._redis,
            tools=worker.tools, model=self._model,
            limits=TokenLimits.of(self._settings), money=create_money_budget(self._settings), policy=self._policy,
        )  # fmt: skip
        ending = asyncio.Event()
        supervisor = self._runtime.supervisor
        for job in membership:
            supervisor.start_job(job, ending)
        log.info("worker_connected", agent=worker.agent.name, version=worker.agent.version)
        try:
            await wait_for_any_event(stop, worker.leaving, worker.gone)
        finally:
            ending.set()
            await supervisor.end([job.name for job in membership], self._settings.drain_s + STOP_MARGIN_AFTER_DRAIN_S)
        log.info("worker_released", agent=worker.agent.name, gone=worker.gone.is_set())


async def _run_worker_program(command: Sequence[str], found: dict[str, str], stop: asyncio.Event) -> None:
    """Run the program that has the function, until it ends or `stop`; it is asked to end, then made to."""
    # Not the sidecar's own: passwords of PostgreSQL and Redis, the key of the model.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN_VARIABLE_PREFIXES)}
    program = await asyncio.create_subprocess_exec(*command, env={**environment, **found})
    ended, stopping = asyncio.create_task(program.wait()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            program.send_signal(signal.SIGTERM)
            await ended
    finally:
        stopping.cancel()
        if program.returncode is None:
            program.kill()
            await program.wait()
    log.info("program_ended", code=program.returncode)
