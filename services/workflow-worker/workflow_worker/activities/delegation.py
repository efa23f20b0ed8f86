"""`delegate`: hands a task to an agent through Redis and waits without holding anything.

The activity publishes and returns "will complete asynchronously"; the bridge completes it by ids when the agent
answers. Each attempt first looks whether the answer is there, or the earlier entry still in the stream, so retries
after a silent 20 s neither repeat work nor pile up entries.
"""

import hashlib
from dataclasses import replace

from redis.asyncio import Redis
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.bus import AgentEventBus, entry_exists
from flotilla.contracts.envelope import AgentEvent, from_json, to_builtins
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import cancelled_key, task_stream
from flotilla.contracts.tasks import (
    MAX_INLINE_RESULT_BYTES,
    TASK_REQUESTED,
    AgentTask,
    Failure,
    ReplyAddress,
    ResultReference,
)
from flotilla.postgres import Connection, Pool, tenant_transaction
from flotilla.telemetry import current_traceparent
from workflow_worker.activities.signatures import (
    DELEGATE,
    TELL_AGENT_CANCELLED,
    AgentFailure,
    CancelledTask,
    TaskOutcome,
)

CANCELLED_KEY_TTL_S = 3600
SUMMARY_CHARS = 200
SOURCE = "/workflow-worker"

# Opens the row for this try, unless it holds an answer or this try already. Gives the row if it was opened.
_QUEUE = """
INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt)
VALUES ($1, $2, $3, $4, $5, 'queued', $6)
ON CONFLICT (tenant_id, task_id) DO UPDATE
    SET status = 'queued', attempt = EXCLUDED.attempt, entry_id = NULL, failure = NULL, finished_at = NULL
    WHERE agent_tasks.status <> 'done' AND agent_tasks.attempt < EXCLUDED.attempt
RETURNING status, attempt, entry_id, result, failure
"""
# The row as it stands.
_ROW = """
SELECT status, attempt, entry_id, result, failure FROM flotilla.agent_tasks WHERE tenant_id = $1 AND task_id = $2
"""
# Remembers where in the stream the task is.
_STORE_ENTRY = """
UPDATE flotilla.agent_tasks SET entry_id = $3 WHERE tenant_id = $1 AND task_id = $2 AND attempt = $4
"""


class Delegation:
    """The activities around a delegated task."""

    def __init__(self, pool: Pool, redis: Redis, bus: AgentEventBus) -> None:
        self._pool = pool
        self._redis = redis
        self._bus = bus

    @activity.defn(name=DELEGATE)
    async def delegate(self, task: AgentTask) -> TaskOutcome:
        """Publishes `task` to its agent; the bridge completes this activity with the answer.

        Idempotency key: (tenant, task id, try).

        Raises:
            ApplicationError: the agent's failure of this try, non-retryable: the workflow decides about another try.
        """
        # Not durable, here and below, so that nobody waits for the disk: a row that a crash of PostgreSQL takes away is
        # written whole by the agent's own commit, or opened anew by this activity's next attempt, for which the reply
        # of a foreign agent waits (`foreign_replies`). Temporal has the task itself.
        async with tenant_transaction(self._pool, task.tenant_id, durable=False) as connection:
            entry_id, answer = await _queued_entry_or_answer(connection, task)
        if answer is None:
            await self._publish_unless_queued(task, entry_id)
            activity.raise_complete_async()
        return answer

    async def _publish_unless_queued(self, task: AgentTask, entry_id: str | None) -> None:
        stream = task_stream(task.agent)
        if entry_id is not None and await entry_exists(self._redis, stream, entry_id):
            return
        published = await self._bus.publish(stream, _requested(task))
        async with tenant_transaction(self._pool, task.tenant_id, durable=False) as connection:
            await connection.execute(_STORE_ENTRY, task.tenant_id, task.task_id, published, task.attempt)

    @activity.defn(name=TELL_AGENT_CANCELLED)
    async def tell_agent_cancelled(self, task: CancelledTask) -> None:
        """Sets the key that a working agent looks at. Safe to repeat."""
        await mark_cancelled(self._redis, task.task_id)


async def mark_cancelled(redis: Redis, task_id: str) -> None:
    """Tells whoever works on `task_id` to stop."""
    await redis.set(cancelled_key(task_id), "1", ex=CANCELLED_KEY_TTL_S)


async def _queued_entry_or_answer(connection: Connection, task: AgentTask) -> tuple[str | None, TaskOutcome | None]:
    opened = await connection.fetchrow(
        _QUEUE, task.tenant_id, task.task_id, task.agent, task.session_id, task.run_id, task.attempt
    )
    # A slip is done when its last hop is; the first agent's own result says nothing about the rest.
    last_hop = f"{task.task_id}~{len(task.slip)}" if task.slip else task.task_id
    if task.slip:
        done = await connection.fetchrow(_ROW, task.tenant_id, last_hop)
        if done is not None and done["status"] == "done":
            return None, outcome_of(last_hop, done["result"])
    row = opened or await connection.fetchrow(_ROW, task.tenant_id, task.task_id)
    assert row is not None  # noqa: S101 - inserted or met just above, in this transaction
    if row["status"] == "done" and not task.slip:
        return None, outcome_of(task.task_id, row["result"])
    if row["attempt"] > task.attempt:
        raise ApplicationError(
            f"task {task.task_id} is at try {row['attempt']}; try {task.attempt} is over",
            type="StaleTry",
            non_retryable=True,
        )
    if row["failure"] is not None:
        raise failure_of(task.task_id, task.agent, task.attempt, from_json(row["failure"], Failure))
    return row["entry_id"], None


def outcome_of(task_id: str, result: str) -> TaskOutcome:
    """A stored result (JSON text) as a workflow gets it: inline, or by reference when it is large."""
    body = result.encode()
    if len(body) <= MAX_INLINE_RESULT_BYTES:
        return TaskOutcome(task_id=task_id, result=from_json(body, dict))
    return TaskOutcome(task_id=task_id, result_ref=reference_to(task_id, result))


def reference_to(task_id: str, result: str) -> ResultReference:
    """Stands for a result that stays in `flotilla.agent_tasks`."""
    body = result.encode()
    return ResultReference(
        task_id=task_id,
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        summary=result[:SUMMARY_CHARS],
    )


def failure_of(task_id: str, agent: str, attempt: int, failure: Failure) -> ApplicationError:
    """An agent's failure as Temporal carries it. Never retried by Temporal: a new try is the workflow's decision."""
    details = AgentFailure(
        task_id=task_id, agent=agent, attempt=attempt, retryable=failure.retryable, approvals=failure.approvals
    )
    return ApplicationError(failure.message, details, type=failure.type, non_retryable=True)


def _requested(task: AgentTask) -> AgentEvent:
    info = activity.info()
    address = ReplyAddress(
        workflow_id=info.workflow_id or "",
        workflow_run_id=info.workflow_run_id or "",
        activity_id=info.activity_id,
    )
    data: JsonObject = to_builtins(replace(task, reply_to=address))
    return AgentEvent(
        type=TASK_REQUESTED,
        source=SOURCE,
        subject=task.session_id,
        data=data,
        tenant=task.tenant_id,
        runid=task.run_id,
        taskid=task.task_id,
        traceparent=current_traceparent(),
    )
