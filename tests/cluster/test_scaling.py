"""Agents by KEDA: none while there is nothing to do, many while there is, and every task done once."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import httpx
import pytest

from tests.cluster.conftest import Figures
from tests.cluster.fleet import RELEASE, Fleet
from tests.cluster.promises import slow_tasks
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
TASKS = 500
AGENT = "research-agent"
SCALED = (AGENT, "workflow-worker", "outbox-relay", "audit-consumer")
OPTIONS = (
    *(f"--set={service}.autoscaling.keda.enabled=true" for service in SCALED),
    *(f"--set={service}.autoscaling.keda.maxReplicas=2" for service in SCALED[1:]),
    f"--set={AGENT}.autoscaling.keda.maxReplicas=4",
    f"--set-string={AGENT}.autoscaling.keda.tasksPerPod=100",
    f"--set={AGENT}.autoscaling.keda.cooldownSeconds=20",
)
_PAUSED = "autoscaling.keda.sh/paused-replicas"
_DONE = "SELECT count(*) FROM flotilla.agent_tasks WHERE status = 'done' AND session_id LIKE $1 || '-%'"
_QUEUED = "SELECT count(*) FROM flotilla.agent_tasks WHERE status = 'queued' AND session_id LIKE $1 || '-%'"
_FIRST = """
SELECT extract(epoch FROM min(finished_at)) - min(duration_ms) / 1000
FROM flotilla.agent_tasks WHERE session_id LIKE $1 || '-%'
"""
_EFFECTS = """
SELECT action_type, count(*) AS rows, count(DISTINCT task_id) AS tasks
FROM flotilla.agent_actions WHERE session_id LIKE $1 || '-%' GROUP BY action_type
"""
_EVENTS = """
SELECT session_id FROM audit.session_events WHERE session_id LIKE $1 || '-%'
GROUP BY session_id HAVING max(seq) = count(*)
"""
_OTHER_LENGTHS = """
SELECT DISTINCT count(*) FROM audit.session_events WHERE session_id LIKE $1 || '-%' GROUP BY session_id
"""


async def test_keda_reaches_the_servers_of_every_trigger(fleet: Fleet) -> None:
    async def ready() -> bool:
        return _conditions(fleet, "Ready") == dict.fromkeys((f"{RELEASE}-{service}" for service in SCALED), "True")

    # KEDA looks again after a while where a server was not there at first.
    await eventually(ready, timeout_s=300, every_s=2)


def _conditions(fleet: Fleet, kind: str) -> dict[str, str]:
    """The status of a condition, by ScaledObject."""
    return {
        scaled["metadata"]["name"]: condition["status"]
        for scaled in fleet.namespace.get("scaledobjects.keda.sh")
        for condition in scaled["status"]["conditions"]
        if condition["type"] == kind
    }


@pytest.mark.parametrize("killing", [False, True], ids=["left-alone", "killed-each-10-s"])
async def test_tasks_sent_before_any_agent_exists_are_all_done_once_by_pods_that_come_and_go(
    fleet: Fleet, unique: Callable[[str], str], figures: Figures, killing: bool
) -> None:
    namespace, batch = fleet.namespace, unique("batch")
    namespace.kubectl("annotate", "--overwrite", "scaledobject", f"{RELEASE}-{AGENT}", f"{_PAUSED}=0")
    await eventually(lambda: not namespace.pods(AGENT), timeout_s=300, every_s=2)
    with fleet.reached() as reached:
        async with reached.client() as client, fleet.database() as database:
            await _publish(client, batch)
            await eventually(lambda: _count(database, _QUEUED, batch, TASKS), timeout_s=300, every_s=1)
    assert not namespace.pods(AGENT)

    most = 0
    async with slow_tasks(fleet, 3), fleet.database() as database, _killer(fleet) if killing else _nobody() as killed:
        namespace.kubectl("annotate", "scaledobject", f"{RELEASE}-{AGENT}", f"{_PAUSED}-")
        released = time.time()

        async def all_done() -> bool:
            nonlocal most
            most = max(most, len(await asyncio.to_thread(namespace.pods, AGENT)))
            return await _count(database, _DONE, batch, TASKS)

        await eventually(all_done, timeout_s=900, every_s=2)
        took = time.time() - released
        first = float(await database.fetchval(_FIRST, batch)) - released
        figures.append(
            f"{TASKS} tasks of 3 s, {len(killed)} pods killed: first started {first:.1f} s after release, all "
            f"done after {took:.0f} s, at most {most} pods"
        )
        effects = {row["action_type"]: (row["rows"], row["tasks"]) for row in await database.fetch(_EFFECTS, batch)}
        assert effects == dict.fromkeys(("tool_call", "tool_result", "task_done"), (TASKS, TASKS))
        await eventually(lambda: _projected(database, batch), timeout_s=120, every_s=1)
        # One length for all: an event told twice would make a session longer.
        assert len(await database.fetch(_OTHER_LENGTHS, batch)) == 1
        assert most > 1
        assert not killing or len(killed) > 1
    await eventually(lambda: not namespace.pods(AGENT), timeout_s=300, every_s=2)


async def _count(database: "asyncpg.Connection[asyncpg.Record]", query: str, batch: str, wanted: int) -> bool:
    return int(await database.fetchval(query, batch)) == wanted


async def _projected(database: "asyncpg.Connection[asyncpg.Record]", batch: str) -> bool:
    return len(await database.fetch(_EVENTS, batch)) == TASKS


async def _publish(client: httpx.AsyncClient, batch: str) -> None:
    gate = asyncio.Semaphore(10)

    async def one(number: int) -> None:
        body = {"steps": ["research"], "input": {"query": "mooring lines"}, "session_id": f"{batch}-{number}"}
        async with gate:
            answer = await client.post("/v1/tasks", json=body, headers={"Idempotency-Key": f"{batch}-{number}"})
        assert answer.status_code == 202, answer.text

    await asyncio.gather(*(one(number) for number in range(TASKS)))


@asynccontextmanager
async def _nobody() -> AsyncIterator[list[str]]:
    yield []


@asynccontextmanager
async def _killer(fleet: Fleet) -> AsyncIterator[list[str]]:
    """Kills a random agent without notice each ten seconds; returns the names of the killed."""
    killed: list[str] = []

    async def kill() -> None:
        while True:
            if pods := await asyncio.to_thread(fleet.namespace.pods, AGENT):
                victim = str(random.choice(pods)["metadata"]["name"])  # noqa: S311 - no secret
                await asyncio.to_thread(fleet.namespace.killed, victim)
                killed.append(victim)
            await asyncio.sleep(10)

    task = asyncio.create_task(kill())
    try:
        yield killed
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
