"""Whatever ends a long-lived task of a service: it lives again, or the process ends; `/livez` tells both."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flotilla.config import KafkaSettings
from flotilla.runtime.service import EXIT_FAILED, EXIT_OK
from tests.integration.supervision.services import HOWS, SERVICES, Breaker, Ground, How, Serving
from tests.support.postgres import Database
from tests.support.session_events import topics_named
from tests.support.waiting import eventually

FATAL = [(name, task, how) for name, service in SERVICES.items() for task in sorted(service.fatal) for how in HOWS]
CHILDREN = {
    "Server._serve": "the HTTP servers: their end is noted by EmbeddedServer.serving",
    "_StopSignal.wait": "of a task that waits for its stop event beside something else",
    "Consumer._renew_entries_repeatedly": "ends its consumer, which is supervised",
    "PublisherConnection._connect_until_open": "the relay starts it again, and is not alive while it hangs",
    "SidecarApi.wait_for_worker": "of the sidecar's shift, which waits for it and for its stop event",
    "ReindexingJob.run": "of the knowledge task, whose group ends with it",
    "serve_mcp_messages.<locals>.serve": "keeps the group of the MCP requests open, and only waits",
    "Breaker.__init__.<locals>.breakable": "the test's own",
    "JobSupervisor._work": "the work itself, which the test runs as a task of its own",
}
LIBRARIES = (
    "asyncio",
    "aiokafka",
    "faststream",
    "temporalio",
    "uvicorn",
    "redis",
    "asyncpg",
    "anyio",
    "starlette",
    "httpx",
)


@pytest.fixture
async def kafka(kafka_bootstrap: str, unique: Callable[[str], str]) -> KafkaSettings:
    return await topics_named(kafka_bootstrap, unique("supervised"))


@pytest.fixture
def ground(database: Database, redis_url: str, kafka: KafkaSettings, temporal_address: str, tmp_path: Path) -> Ground:
    return Ground(database, redis_url, kafka, temporal_address, tmp_path)


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    return Breaker(monkeypatch)


async def lives_again(running: Serving, breaker: Breaker, name: str, how: How, times: int) -> None:
    ended = running.runtime.supervisor.running_tasks[name]
    await breaker.end(ended, how)
    await eventually(lambda: running.runtime.supervisor.running_tasks.get(name) not in (None, ended))
    status, seen = await running.livez()
    assert (status, seen["restarts"][name]) == (200, times)


@pytest.mark.parametrize("name", SERVICES)
async def test_each_task_of_a_service_lives_again_after_each_kind_of_end(
    name: str, ground: Ground, breaker: Breaker
) -> None:
    async with ground.serving(name) as running:
        for task in sorted(running.service.restarting):
            for times, how in enumerate(HOWS, start=1):
                await running.ready()
                await lives_again(running, breaker, task, how, times)
        assert unsupervised(running) == {}
    assert running.exit_code.result() == EXIT_OK


def listeners() -> list["asyncio.Task[Any]"]:
    """The tasks in which the broker library listens."""
    return [task for task in asyncio.all_tasks() if "_consume" in getattr(task.get_coro(), "__qualname__", "")]


async def test_the_gateway_listens_again_when_the_broker_librarys_task_was_cancelled(ground: Ground) -> None:
    async with ground.serving("gateway"):
        await eventually(listeners)
        (listener,) = listeners()
        # The Redis client swallows a cancellation that reaches it while it connects, hence more than one.
        await eventually(lambda: listener.done() or not listener.cancel())
        await eventually(lambda: listeners() and listeners() != [listener])


@pytest.mark.parametrize(("name", "task", "how"), FATAL)
async def test_a_task_that_cannot_go_on_ends_its_process(
    name: str, task: str, how: How, ground: Ground, breaker: Breaker
) -> None:
    async with ground.serving(name) as running:
        await breaker.end(running.runtime.supervisor.running_tasks[task], how)
        await eventually(running.runtime.stop.is_set)
        assert running.runtime.health.liveness()["ended"].keys() == {task}
        assert await running.exit_code == EXIT_FAILED


def unsupervised(running: Serving) -> dict[str, str]:
    """Tasks that the service made beside those its supervisor knows, by name."""
    known = set(running.runtime.supervisor.running_tasks.values()) | running.before
    found: dict[str, Any] = {task.get_name(): task.get_coro() for task in asyncio.all_tasks() - known}
    return {
        name: coroutine.__qualname__
        for name, coroutine in found.items()
        if coroutine.__qualname__ not in CHILDREN and not _of_a_library(coroutine)
    }


def _of_a_library(coroutine: Any) -> bool:
    return any(f"/{library}/" in coroutine.cr_code.co_filename for library in LIBRARIES)
