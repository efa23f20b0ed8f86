"""Each service as its process runs it, inside the test's event loop, with long-lived tasks that can be ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

import audit_consumer.main
import audit_consumer.settings
import gateway.main
import gateway.settings
import outbox_relay.main
import outbox_relay.settings
import research_agent.main
import research_agent.settings
import tool_gateway.main
import tool_gateway.settings
import workflow_worker.main
import workflow_worker.settings
import writer_agent.main
import writer_agent.settings
from flotilla.agent import AgentSettings, run_agent
from flotilla.agent.sidecar.service import serve_sidecar_workers
from flotilla.agent.sidecar.settings import SidecarSettings
from flotilla.audit.notes import WITNESS_KEY, NoteKey
from flotilla.config import KafkaSettings, ServiceSettings
from flotilla.config.signing import create_key_pair, signer_with_new_key
from flotilla.runtime import Runtime
from flotilla.runtime.cancellation import cancel_all
from flotilla.runtime.service import _serve
from flotilla.runtime.supervision import Job, JobSupervisor
from flotilla_devstack.ports import free_port
from tests.support.adder import Adder
from tests.support.postgres import Database
from tests.support.tickets import KEY_FILE, PUBLIC_KEY_FILE
from tests.support.waiting import eventually

How = Literal["returns", "fails", "is cancelled"]
HOWS: tuple[How, ...] = ("returns", "fails", "is cancelled")


@dataclass(frozen=True)
class Service:
    """A service and the tasks it lives by."""

    settings: type[ServiceSettings]
    run: Callable[[Any, Runtime], Awaitable[None]]
    role: str
    restarting: frozenset[str] = frozenset()
    fatal: frozenset[str] = frozenset()
    """Those whose end ends the process."""
    further: Callable[[Path], Mapping[str, Any]] = lambda _folder: {}
    """Settings without which some of its tasks are not there; what they name outside does not answer."""


NOWHERE = "http://127.0.0.1:9"
AGENT = frozenset({"bus", "bus of the version", "registration", "policy"})


def _witnesses_and_stamps(_folder: Path) -> Mapping[str, Any]:
    witness = NoteKey("witness.example.org", WITNESS_KEY, signer_with_new_key().public_key)
    return {
        "audit_log_origin": "flotilla.example.com/audit",
        "audit_witnesses": f"{NOWHERE}#{witness.to_text()}",
        "audit_stamp_url": NOWHERE,
    }


def _mcp_server(folder: Path) -> Mapping[str, Any]:
    file = folder / "servers.json"
    file.write_text(json.dumps({"mcpServers": {"desk": {"url": NOWHERE}}}), "utf-8")
    return {"mcp_servers_file": file}


SERVICES = {
    "gateway": Service(
        gateway.settings.Settings,
        gateway.main.run,
        "flotilla_gateway",
        restarting=frozenset(
            {
                "live feed",
                "run watch",
                "announcements",
                "retention",
                "expired documents",
                "policy",
                "knowledge",
                "sampler",
            }
        ),
    ),
    "workflow-worker": Service(
        workflow_worker.settings.Settings,
        workflow_worker.main.run,
        "flotilla_worker",
        restarting=frozenset(
            {
                *("bridge", "former replies", "redrives", "leader", "policy", "policy record", "workflow catalog"),
                *(f"leader duty {number}" for number in range(1, 13)),
            }
        ),
        fatal=frozenset({"temporal worker"}),
    ),
    "research-agent": Service(
        research_agent.settings.Settings, research_agent.main.run, "flotilla_agent_research", restarting=AGENT
    ),
    "writer-agent": Service(
        writer_agent.settings.Settings, writer_agent.main.run, "flotilla_agent_write", restarting=AGENT
    ),
    "tool-gateway": Service(
        tool_gateway.settings.Settings,
        tool_gateway.main.run,
        "flotilla_agent_mcp",
        restarting=AGENT | {"mcp desk"},
        further=_mcp_server,
    ),
    "custom-agent": Service(AgentSettings, partial(run_agent, Adder().agent), "flotilla_agent_adder", restarting=AGENT),
    "sidecar": Service(
        SidecarSettings,
        partial(serve_sidecar_workers, ["sleep", "600"]),
        "flotilla_agent_adder",
        restarting=frozenset({"workers", "policy", "program"}),
        further=lambda _folder: {"agent_name": "adder"},
    ),
    "outbox-relay": Service(
        outbox_relay.settings.Settings, outbox_relay.main.run, "flotilla_relay", fatal=frozenset({"relay"})
    ),
    "audit-consumer": Service(
        audit_consumer.settings.Settings,
        audit_consumer.main.run,
        "flotilla_audit",
        restarting=frozenset({"requests", "anchor", "watch", "witnesses", "stamps"}),
        fatal=frozenset({"consumer"}),
        further=_witnesses_and_stamps,
    ),
}


class Breaker:
    """Ends supervised tasks from inside: their work returns or raises before its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._orders: dict[asyncio.Task[Any] | None, asyncio.Future[None]] = {}
        self._work = JobSupervisor._work

        async def breakable(supervisor: JobSupervisor, job: Job, stop: asyncio.Event) -> None:
            await self._breakable(supervisor, job, stop)

        monkeypatch.setattr(JobSupervisor, "_work", breakable)

    async def _breakable(self, supervisor: JobSupervisor, job: Job, stop: asyncio.Event) -> None:
        order = self._orders[asyncio.current_task()] = asyncio.get_running_loop().create_future()
        work = asyncio.create_task(self._work(supervisor, job, stop))
        try:
            await asyncio.wait([work, order], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all([work])
        (order if order.done() else work).result()

    async def end(self, task: "asyncio.Task[None]", how: How) -> None:
        """Ends the task of a job."""
        order = await eventually(lambda: [self._orders[task]] if task in self._orders else None)
        if how == "returns":
            order[0].set_result(None)
        elif how == "fails":
            order[0].set_exception(RuntimeError("broken by a test"))
        else:
            task.cancel()
        await eventually(task.done)


@dataclass
class Serving:
    """A service that runs."""

    service: Service
    runtime: Runtime
    port: int
    exit_code: "asyncio.Task[int]"
    before: set["asyncio.Task[Any]"] = field(default_factory=set)
    """The tasks that lived before it."""

    async def livez(self) -> tuple[int, dict[str, Any]]:
        """What the probe sees."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{self.port}/livez")
            return answer.status_code, answer.json()

    async def ready(self) -> None:
        """Waits until every task lives."""
        wanted = self.service.restarting | self.service.fatal
        await eventually(
            lambda: self.runtime.supervisor.running_tasks.keys() == wanted or self.exit_code.done(), timeout_s=30
        )
        assert self.runtime.supervisor.running_tasks.keys() == wanted


@dataclass(frozen=True)
class Ground:
    """The servers of a test."""

    database: Database
    redis_url: str
    kafka: KafkaSettings
    temporal_address: str
    folder: Path

    def settings(self, service: Service, port: int) -> ServiceSettings:
        """The service's settings; what it does not know of these it ignores."""
        create_key_pair(self.folder / "audit.pem", self.folder / "audit.pub")
        return service.settings.model_validate(
            {
                "metrics_host": "127.0.0.1",
                "metrics_port": port,
                "drain_s": 5,
                "postgres_dsn": self.database.dsn(service.role),
                "redis_url": self.redis_url,
                **self.kafka.model_dump(include={"kafka_bootstrap_servers", "kafka_session_events_topic"}),
                "kafka_checkpoints_topic": self.kafka.kafka_checkpoints_topic,
                "temporal_address": self.temporal_address,
                "temporal_metrics_port": 0,
                "task_queue": self.kafka.kafka_session_events_topic,
                "http_host": "127.0.0.1",
                "http_port": 0,
                "audit_group": self.kafka.kafka_session_events_topic,
                "audit_signing_key_file": self.folder / "audit.pem",
                "ticket_key_file": KEY_FILE,
                "ticket_public_key_file": PUBLIC_KEY_FILE,
                **service.further(self.folder),
            }
        )

    @asynccontextmanager
    async def serving(self, name: str) -> AsyncIterator[Serving]:
        """The service `name` with all its tasks, until the block ends, or one of its tasks ends it."""
        service, port, before = SERVICES[name], free_port(), asyncio.all_tasks()
        made: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()

        async def run(settings: ServiceSettings, runtime: Runtime) -> None:
            made.set_result(runtime)
            await service.run(settings, runtime)

        exit_code = asyncio.create_task(_serve(name, self.settings(service, port), run))
        running = Serving(service, await made, port, exit_code, before | {exit_code})
        try:
            await running.ready()
            yield running
        finally:
            running.runtime.request_stop("end of the test")
            async with asyncio.timeout(30):
                await exit_code
