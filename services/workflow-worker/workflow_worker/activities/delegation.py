"""`delegate`: hands a task to an agent through Redis and waits without holding anything.

The activity publishes and returns "will complete asynchronously"; the bridge completes it by ids when the agent
answers. Each attempt first looks whether the answer is there, or the earlier entry still in the stream, so retries
after a silent 20 s neither repeat work nor pile up entries.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from redis.asyncio import Redis
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.bus import AgentEventBus, entry_exists
from flotilla.bus.tickets import SealedEvent
from flotilla.config.signing import Signer
from flotilla.contracts.envelope import from_json
from flotilla.contracts.names import cancelled_key, task_stream
from flotilla.contracts.tasks import MAX_INLINE_RESULT_BYTES, AgentTask, Failure, ReplyAddress, ResultReference
from flotilla.postgres import Pool, tenant_transaction
from workflow_worker.activities.signatures import (
    DELEGATE,
    TELL_AGENT_CANCELLED,
    AgentFailure,
    CancelledTask,
    TaskOutcome,
)
from workflow_worker.delegates import Delegates
from workflow_worker.delegations import Hop, hop_to_do, open_hop, published_event, store_entry

CANCELLED_KEY_TTL_S = 3600
SUMMARY_CHARS = 200


@dataclass(frozen=True, slots=True)
class _Opened:
    """A hop that waits for its agent, and where in the stream it is, if it was published before."""

    task: AgentTask
    sealed: SealedEvent
    entry_id: str | None


class Delegation:
    """The activities around a delegated task."""

    def __init__(self, pool: Pool, redis: Redis, bus: AgentEventBus, signer: Signer, delegates: Delegates) -> None:
        self._pool = pool
        self._redis = redis
        self._bus = bus
        self._signer = signer
        self._delegates = delegates

    @activity.defn(name=DELEGATE)
    async def delegate(self, task: AgentTask) -> TaskOutcome:
        """Publishes `task` to its agent; the bridge completes this activity with the answer.

        In a slip, the first hop without a result is published: those before it are done. Idempotency key: (tenant,
        task id, try).

        Raises:
            ApplicationError: the agent's failure of this try, non-retryable: the workflow decides about another try.
        """
        opened = await self._open(task)
        if not isinstance(opened, TaskOutcome):
            await self._publish_unless_queued(opened)
            activity.raise_complete_async()
        return opened

    async def _open(self, task: AgentTask) -> "TaskOutcome | _Opened":
        # Not durable, here and below, so that nobody waits for the disk: a row that a crash of PostgreSQL takes away is
        # opened again by this activity's next attempt, for which the reply waits. Temporal has the task itself.
        async with tenant_transaction(self._pool, task.tenant_id, durable=False) as connection:
            hop = await hop_to_do(connection, task)
            if hop.stored is not None and hop.stored["status"] == "done":
                return outcome_of(hop.task.task_id, hop.stored["result"])
            _refuse_what_is_over(hop)
            sealed = await published_event(connection, hop.task) if _was_opened(hop) else None
            if sealed is not None:
                return _Opened(hop.task, sealed, hop.stored["entry_id"] if hop.stored else None)
            sealed = await open_hop(connection, hop.task, _waiting(), _deadline(), self._signer)
        return _Opened(hop.task, sealed, None)

    async def _publish_unless_queued(self, opened: "_Opened") -> None:
        task, stream, entry_id = opened.task, task_stream(opened.task.agent), opened.entry_id
        if entry_id is not None and await entry_exists(self._redis, stream, entry_id):
            return
        await self._delegates.note(task.agent)
        published = await self._bus.publish(stream, opened.sealed)
        async with tenant_transaction(self._pool, task.tenant_id, durable=False) as connection:
            await store_entry(connection, task, published)

    @activity.defn(name=TELL_AGENT_CANCELLED)
    async def tell_agent_cancelled(self, task: CancelledTask) -> None:
        """Sets the key that a working agent looks at. Safe to repeat."""
        await mark_cancelled(self._redis, task.task_id)


async def mark_cancelled(redis: Redis, task_id: str) -> None:
    """Tells whoever works on `task_id` to stop."""
    await redis.set(cancelled_key(task_id), "1", ex=CANCELLED_KEY_TTL_S)


def _was_opened(hop: Hop) -> bool:
    return hop.stored is not None and hop.stored["attempt"] == hop.task.attempt


def _refuse_what_is_over(hop: Hop) -> None:
    task, row = hop.task, hop.stored
    if row is None:
        return
    if row["attempt"] > task.attempt:
        raise ApplicationError(
            f"task {task.task_id} is at try {row['attempt']}; try {task.attempt} is over",
            type="StaleTry",
            non_retryable=True,
        )
    if row["attempt"] == task.attempt and row["failure"] is not None:
        raise failure_of(task.task_id, task.agent, task.attempt, from_json(row["failure"], Failure))


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
        task_id=task_id,
        agent=agent,
        attempt=attempt,
        retryable=failure.retryable,
        approvals=failure.approvals,
        retry_after_s=failure.retry_after_s,
    )
    return ApplicationError(failure.message, details, type=failure.type, non_retryable=True)


def _waiting() -> ReplyAddress:
    """This activity's address."""
    info = activity.info()
    return ReplyAddress(
        workflow_id=info.workflow_id or "",
        workflow_run_id=info.workflow_run_id or "",
        activity_id=info.activity_id,
    )


def _deadline() -> datetime:
    """When this try is over."""
    info = activity.info()
    return info.scheduled_time + (info.schedule_to_close_timeout or timedelta(minutes=30))
