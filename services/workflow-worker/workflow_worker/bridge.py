"""The bus bridge: completes waiting `delegate` activities with what agents reply.

Always by workflow id, run id and activity id: a task token changes with each attempt, while by ids a late reply still
completes the current attempt. NOT_FOUND means that nobody waits any more; any other trouble leaves the reply pending.
"""

import asyncio
import time

import structlog
from temporalio.client import AsyncActivityCancelledError, AsyncActivityHandle, Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from flotilla.bus import Delivery, Finish
from flotilla.bus.connection import Redis
from flotilla.contracts.envelope import from_builtins, to_json
from flotilla.contracts.errors import DeadLetter, RetryLater, Undecodable, UnknownType
from flotilla.contracts.tasks import MAX_INLINE_RESULT_BYTES, TASK_REPLIED, AgentReply, ReplyAddress
from flotilla.postgres import Pool
from workflow_worker.activities.delegation import failure_of, mark_cancelled, reference_to
from workflow_worker.activities.signatures import CANCELLED_BY_AGENT, TaskOutcome
from workflow_worker.foreign_replies import persist

log = structlog.get_logger(__name__)
RPC_TIMEOUT_S = 10.0


class Bridge:
    """Handles the entries of `flotilla.replies`. Safe to hand the same reply twice."""

    def __init__(self, client: Client, pool: Pool, redis: Redis) -> None:
        self._client = client
        self._pool = pool
        self._redis = redis

    async def handle(self, delivery: Delivery) -> Finish:
        """Stores what a foreign agent left to be stored, then answers the waiting activity.

        Raises:
            UnknownType: not a reply, or of a version that this worker does not know.
            DeadLetter: no workflow could use it; whoever waits for the task is told by the dead letters.
            RetryLater: Temporal or PostgreSQL is away, or PostgreSQL does not know the task (yet).
        """
        reply = _reply_in(delivery)
        if not reply.persisted and reply.status in ("done", "failed"):
            await persist(self._pool, reply, _age_s(delivery))
        if reply.reply_to is not None:
            await self._answer(self._activity(reply.reply_to), reply)
        return Finish()

    def _activity(self, address: ReplyAddress) -> AsyncActivityHandle:
        return self._client.get_async_activity_handle(
            workflow_id=address.workflow_id, run_id=address.workflow_run_id, activity_id=address.activity_id
        )

    async def _answer(self, waiting: AsyncActivityHandle, reply: AgentReply) -> None:
        try:
            async with asyncio.timeout(RPC_TIMEOUT_S):
                await self._pass_on(waiting, reply)
        except AsyncActivityCancelledError:
            await mark_cancelled(self._redis, reply.task_id)
        except TimeoutError as error:
            raise RetryLater(f"Temporal did not answer within {RPC_TIMEOUT_S:g} s") from error
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise RetryLater(f"Temporal refused the answer to task {reply.task_id}: {error}") from error
            log.debug("reply_to_nobody", task_id=reply.task_id, attempt=reply.attempt, status=reply.status)

    async def _pass_on(self, waiting: AsyncActivityHandle, reply: AgentReply) -> None:
        if reply.status == "progress" or not reply.final:
            await waiting.heartbeat(reply.progress or f"{reply.agent} done")
        elif reply.status == "done":
            await waiting.complete(_outcome(reply))
        elif reply.status == "cancelled":
            await _report_cancelled(waiting, reply)
        else:
            assert reply.failure is not None  # noqa: S101 - checked in _reply_in
            await waiting.fail(failure_of(reply.task_id, reply.agent, reply.attempt, reply.failure))


async def _report_cancelled(waiting: AsyncActivityHandle, reply: AgentReply) -> None:
    try:
        await waiting.report_cancellation()
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT:
            raise
        # The agent heard of the cancellation before the server did: the workflow's request is still on its way.
        await waiting.fail(
            ApplicationError(
                f"agent {reply.agent} stopped: the task was cancelled", type=CANCELLED_BY_AGENT, non_retryable=True
            )
        )


def _age_s(delivery: Delivery) -> float:
    """How long ago the entry was written, by its id."""
    return time.time() - int(delivery.entry_id.partition("-")[0]) / 1000


def _reply_in(delivery: Delivery) -> AgentReply:
    """The reply, if a workflow can use it: a wrong one would fail the workflow task for ever."""
    event = delivery.event
    if event.type != TASK_REPLIED:
        raise UnknownType(f"entry {delivery.entry_id}: {event.type} is not {TASK_REPLIED}")
    try:
        reply = from_builtins(event.data, AgentReply)
    except Undecodable as error:
        # The version is one we know, so no other worker could read it either: no second chances.
        raise DeadLetter(f"entry {delivery.entry_id}: {error}") from error
    if reply.status == "failed" and reply.failure is None:
        raise DeadLetter(f"reply to task {reply.task_id} failed without a failure")
    if reply.status == "done" and reply.result is None and reply.result_ref is None:
        raise DeadLetter(f"reply to task {reply.task_id} is done without a result")
    return reply


def _outcome(reply: AgentReply) -> TaskOutcome:
    if reply.result is None:
        return TaskOutcome(task_id=reply.task_id, result_ref=reply.result_ref)
    body = to_json(reply.result)
    if len(body) > MAX_INLINE_RESULT_BYTES:
        return TaskOutcome(task_id=reply.task_id, result_ref=reference_to(reply.task_id, body.decode()))
    return TaskOutcome(task_id=reply.task_id, result=reply.result)
