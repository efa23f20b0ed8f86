"""A workflow that waits for an agent, and what the bridge did with its replies."""

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import asyncpg
from temporalio.client import WorkflowHandle

from flotilla.bus import Redis
from flotilla.contracts.names import (
    PIPELINE_WORKFLOW,
    reply_stream,
    task_stream,
    task_workflow_id,
)
from flotilla.contracts.requests import PipelineRequest
from flotilla.postgres import tenant_transaction
from flotilla.telemetry.metrics import REPLIES_REFUSED
from flotilla.workflows.calls.delegation import TaskOutcome
from tests.hostile.bus.insider import AGENT
from tests.support.foreign_agent import ForeignAgent, Task, foreign_agent
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'alice')"
TENANT, OTHER = "acme", "victim"


@dataclass
class Waiting:
    """A workflow that waits for an agent, and the task that the agent was given."""

    handle: WorkflowHandle[Any, TaskOutcome]
    task: Task

    async def is_waiting(self) -> bool:
        return (await self.handle.describe()).close_time is None


async def delegated(worker: RunningWorker, admin: Redis, task_id: str, steps: list[str]) -> Waiting:
    """A workflow that waits for the first of `steps`."""
    async with tenant_transaction(worker.pool, TENANT) as connection:
        await connection.execute(ADD_SESSION, TENANT, task_id)
    request = PipelineRequest(
        steps=steps, input={"q": "?"}, user_id="alice", task_id=task_id, tenant_id=TENANT, session_id=task_id
    )
    handle = await worker.client.start_workflow(
        PIPELINE_WORKFLOW, request, id=task_workflow_id(task_id), task_queue=worker.task_queue, result_type=TaskOutcome
    )

    async def given() -> Task | None:
        entries: Any = await admin.xrange(task_stream(steps[0]))
        tasks: list[Task] = [json.loads(fields[b"event"])["data"] for _, fields in entries]
        return next((task for task in tasks if task["task_id"] == task_id), None)

    return Waiting(handle, await eventually(given, timeout_s=30))


def answering(admin: Redis, agent: str) -> AbstractAsyncContextManager[ForeignAgent]:
    """The honest agent, at work."""

    async def honest(_task: Task) -> dict[str, Any]:
        return {"status": "done", "result": {"honest": True}}

    return foreign_agent(admin, agent, honest)


def refusals(reason: str) -> float:
    """How many replies of the hostile agent were refused for `reason`, as the metric says."""
    return float(REPLIES_REFUSED.labels(AGENT, reason)._value.get())


async def handled(admin: Redis) -> bool:
    """Whether the bridge has seen all that the hostile agent sent."""
    [group] = await admin.xinfo_groups(reply_stream(AGENT))
    return (group["lag"], group["pending"]) == (0, 0)


async def seen(admin: Redis) -> bool:
    """Whether the bridge has read all that the hostile agent sent."""
    [group] = await admin.xinfo_groups(reply_stream(AGENT))
    return bool(group["lag"] == 0)


async def letters(worker: RunningWorker) -> list[asyncpg.Record]:
    return await worker.rows(TENANT, "SELECT stream, reason, error FROM flotilla.dead_letters ORDER BY created_at")


async def untouched(worker: RunningWorker, task_id: str) -> bool:
    """Whether the task still waits for its answer, with nothing in its session."""
    [task] = await worker.rows(TENANT, "SELECT status FROM flotilla.agent_tasks WHERE task_id = $1", task_id)
    events = await worker.events(TENANT, task_id)
    return task["status"] == "queued" and not any(event.source.startswith("/agents/") for event in events)
