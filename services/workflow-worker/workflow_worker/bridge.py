"""The bus bridge: completes waiting `delegate` activities with what agents reply, and forwards routing slips.

Each agent has a reply stream of its own, so that the stream says who replies. Activities are completed by workflow id,
run id and activity id, as they stand in the delegation's row: a task token changes with each attempt, while by ids a
late reply still completes the current attempt. NOT_FOUND means that nobody waits any more. An answer that Temporal
refuses for what it holds ends the try with that reason; any other trouble leaves the reply pending.
"""

import asyncio
import math
import re
import time
from dataclasses import replace

import structlog
from temporalio.client import AsyncActivityCancelledError, AsyncActivityHandle, Client
from temporalio.converter import ActivitySerializationContext
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from flotilla.bus import DONE, Delivery, HandlerResult
from flotilla.bus.connection import Redis
from flotilla.bus.dead_letters import TaskReference
from flotilla.contracts.dead_letters import DeadLettered
from flotilla.contracts.envelope import AgentEvent, from_builtins, to_builtins
from flotilla.contracts.errors import DeadLetter, RetryLater, Undecodable, UnknownType
from flotilla.contracts.names import DEAD_LETTERS_STREAM, EVENTS_STREAM, agent_of_stream
from flotilla.contracts.tasks import DEAD_LETTERED, TASK_REPLIED, AgentReply, Failure, ReplyAddress, TaskCompleted
from flotilla.runtime.key_locks import KeyLocks
from flotilla.temporal import is_permanent_error
from flotilla.workflows.calls.delegation import CANCELLED_BY_AGENT
from workflow_worker.activities.delegation import failure_as_application_error, outcome_from_result, set_cancelled_key
from workflow_worker.delegations import HopPublisher
from workflow_worker.former_replies import find_agent_of_stored_answer
from workflow_worker.settlement import ReplySettler, SettledReply, StoredAnswer

log = structlog.get_logger(__name__)
TEMPORAL_RPC_TIMEOUT_S = 10.0
MAX_CLOCK_DIFFERENCE_S = 60.0
MAX_PROGRESS_CHARS = 1000
"""Of a sign of life: an agent may send any."""
SHORT_HOP_S = 1.0
"""A hop of a slip that took less is no sign of life: telling Temporal takes as long as such a hop itself."""
_ANNOUNCEMENT_TYPE = re.compile(r"[a-z0-9_-]{1,40}(?:\.[a-z0-9_-]{1,40}){1,4}\.completed\.v[0-9]{1,3}")


class ReplyBridge:
    """Handles the entries of the reply streams. Safe to hand the same reply twice."""

    def __init__(self, client: Client, redis: Redis, settlement: ReplySettler, publisher: HopPublisher) -> None:
        self._client = client
        self._redis = redis
        self._settlement = settlement
        self._publisher = publisher
        self._busy = KeyLocks()

    async def handle_reply(self, agent: str, delivery: Delivery) -> HandlerResult:
        """Answer the activity that waits for `agent`, whose stream the delivery is from.

        Raises:
            UnknownType: not a reply, or of a version that this worker does not know.
            DeadLetter: no workflow could use it, or the agent may not give it.
            RetryLater: Temporal or PostgreSQL is unavailable, or PostgreSQL does not know the task (yet).
        """
        if delivery.event.type == DEAD_LETTERED:
            return _own_dead_letter_announcement(agent, delivery)
        reply = _decode_usable_reply(delivery)
        async with self._busy.locked((reply.tenant_id, reply.task_id)):
            settled = await self._settlement.settle_reply(agent, reply, entry_age_s(delivery.entry_id))
        if settled is None:
            return DONE
        await self._act_on_settled_reply(settled, reply.progress)
        return _completion_announcement(agent, settled, reply, delivery) if settled.delegated.is_unanswered else DONE

    async def handle_former_reply(self, delivery: Delivery) -> HandlerResult:
        """Look for the answer that a reply on the former versions' stream speaks of.

        Raises:
            UnknownType, DeadLetter, RetryLater: as `handle_reply`.
        """
        reply = _decode_usable_reply(delivery)
        if reply.status == "progress":
            return DONE
        agent = await find_agent_of_stored_answer(self._settlement.pool, reply)
        if agent is not None:
            settled = await self._settlement.settle_reply(
                agent, replace(reply, persisted=True), entry_age_s(delivery.entry_id)
            )
            if settled is not None:
                await self._act_on_settled_reply(settled, None)
        return DONE

    async def _act_on_settled_reply(self, settled: SettledReply, progress: str | None) -> None:
        if settled.following is not None:
            await self._publisher.publish_hop(settled.following)
        await self._notify_waiting_activity(settled, progress)

    async def fail_open_task(self, agent: str, task: TaskReference, why: str) -> None:
        """End an open task of `agent` whose reply is of no use, and notify the caller that waits for it.

        Raises:
            RetryLater: Temporal or PostgreSQL is unavailable.
        """
        settled = await self._settlement.fail_open_task(agent, task.tenant_id or "", task.task_id, task.attempt, why)
        if settled is not None:
            await self._notify_waiting_activity(settled, None)

    async def _notify_waiting_activity(self, settled: SettledReply, progress: str | None) -> None:
        task_id = settled.delegated.task_id
        waiting = self._activity_handle(settled.delegated.waiting_activity)
        try:
            async with asyncio.timeout(TEMPORAL_RPC_TIMEOUT_S):
                await _pass_answer_to_activity(waiting, settled, progress)
        except AsyncActivityCancelledError:
            await set_cancelled_key(self._redis, task_id)
        except TimeoutError as error:
            raise RetryLater(f"Temporal did not answer within {TEMPORAL_RPC_TIMEOUT_S:g} s") from error
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                log.debug("reply_to_nobody", task_id=task_id, attempt=settled.delegated.attempt)
            elif not is_permanent_error(error):
                raise RetryLater(f"Temporal does not take the answer to task {task_id}: {error}") from error
            elif settled.answer is not None:
                await _fail_activity_with_refusal(waiting, settled, error)

    def _activity_handle(self, address: ReplyAddress) -> AsyncActivityHandle:
        handle = self._client.get_async_activity_handle(
            workflow_id=address.workflow_id, run_id=address.workflow_run_id, activity_id=address.activity_id
        )
        # Says whose key encrypts the answer.
        return handle.with_context(
            ActivitySerializationContext(
                namespace=self._client.namespace,
                workflow_id=address.workflow_id,
                workflow_type=None,
                activity_id=address.activity_id,
                activity_type=None,
                activity_task_queue=None,
                is_local=False,
            )
        )


async def _pass_answer_to_activity(waiting: AsyncActivityHandle, settled: SettledReply, progress: str | None) -> None:
    delegated, answer = settled.delegated, settled.answer
    agent = delegated.row["agent"]
    if answer is None:
        await waiting.heartbeat((progress or agent)[:MAX_PROGRESS_CHARS])
    elif answer.status == "done" and answer.result is not None:
        if not delegated.row["slip"]:
            await waiting.complete(outcome_from_result(delegated.task_id, answer.result))
        elif delegated.row["took_s"] > SHORT_HOP_S:
            await waiting.heartbeat(f"{agent} done")
    elif answer.status == "cancelled":
        await _report_cancelled(waiting, agent)
    else:
        await waiting.fail(
            failure_as_application_error(delegated.task_id, agent, delegated.attempt, _failure_of_answer(answer))
        )


def _failure_of_answer(answer: StoredAnswer) -> Failure:
    return answer.failure or Failure(type="Unknown", message="the agent gave no reason", retryable=False)


async def _fail_activity_with_refusal(waiting: AsyncActivityHandle, settled: SettledReply, refusal: RPCError) -> None:
    """Ends the try with Temporal's reason not to take its answer, which no repetition changes.

    Raises:
        DeadLetter: Temporal does not take that, either.
    """
    delegated = settled.delegated
    why = f"Temporal does not take the answer to task {delegated.task_id}: {refusal}"
    log.error("answer_refused", task_id=delegated.task_id, attempt=delegated.attempt, error=str(refusal))
    failure = Failure(type="AnswerRefused", message=why, retryable=False)
    try:
        async with asyncio.timeout(TEMPORAL_RPC_TIMEOUT_S):
            await waiting.fail(
                failure_as_application_error(delegated.task_id, delegated.row["agent"], delegated.attempt, failure)
            )
    except TimeoutError as error:
        raise RetryLater(f"Temporal did not answer within {TEMPORAL_RPC_TIMEOUT_S:g} s") from error
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return
        raise (DeadLetter(why) if is_permanent_error(error) else RetryLater(why)) from error


async def _report_cancelled(waiting: AsyncActivityHandle, agent: str) -> None:
    try:
        await waiting.report_cancellation()
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT:
            raise
        # The agent heard of the cancellation before the server did: the workflow's request is still on its way.
        await waiting.fail(
            ApplicationError(
                f"agent {agent} stopped: the task was cancelled", type=CANCELLED_BY_AGENT, non_retryable=True
            )
        )


def entry_age_s(entry_id: str) -> float:
    """How long ago the entry was written, by its id; infinite, where its writer chose an id ahead of the clock."""
    age_s = time.time() - int(entry_id.partition("-")[0]) / 1000
    return age_s if age_s > -MAX_CLOCK_DIFFERENCE_S else math.inf


def _decode_usable_reply(delivery: Delivery) -> AgentReply:
    """The reply, if a workflow can use it: a wrong one would fail the workflow task again and again."""
    event = delivery.event
    if event.type != TASK_REPLIED:
        raise UnknownType(f"entry {delivery.entry_id}: {event.type} is not {TASK_REPLIED}")
    try:
        reply = from_builtins(event.data, AgentReply)
    except Undecodable as error:
        # The version is one we know, so no other worker could read it either: no second chances.
        raise DeadLetter(f"entry {delivery.entry_id}: {error}") from error
    if reply.unreadable is not None:
        raise DeadLetter(f"reply to task {reply.task_id} can't be read: {reply.unreadable}")
    if reply.status == "failed" and reply.failure is None:
        raise DeadLetter(f"reply to task {reply.task_id} is refused: its status is failed, and it has no failure")
    if reply.status == "done" and reply.result is None and not reply.persisted:
        raise DeadLetter(f"reply to task {reply.task_id} is refused: its status is done, and it has no result")
    return reply


def _completion_announcement(agent: str, settled: SettledReply, reply: AgentReply, delivery: Delivery) -> HandlerResult:
    """Tells everybody on `flotilla.events` that the task is done, under a name that the agent may choose."""
    if settled.answer is None or settled.answer.status != "done":
        return DONE
    delegated = settled.delegated
    kind = reply.announces or ""
    done = TaskCompleted(
        task_id=delegated.task_id,
        agent=agent,
        attempt=delegated.attempt,
        duration_ms=settled.answer.duration_ms,
    )
    event = AgentEvent(
        type=kind if _ANNOUNCEMENT_TYPE.fullmatch(kind) else f"flotilla.{agent}.completed.v1",
        source=f"/agents/{agent}",
        subject=delegated.row["session_id"],
        tenant=delegated.tenant_id,
        runid=delegated.row["run_id"],
        taskid=delegated.task_id,
        subjectkey=delegated.row["principal"],
        traceparent=delivery.event.traceparent,
        data=to_builtins(done),
    )
    return HandlerResult([(EVENTS_STREAM, event)])


def _own_dead_letter_announcement(agent: str, delivery: Delivery) -> HandlerResult:
    """Passes an agent's announcement of a dead letter of its own tasks on."""
    lost = from_builtins(delivery.event.data, DeadLettered)
    if agent_of_stream(lost.stream) != agent:
        raise DeadLetter(f"entry {delivery.entry_id}: {lost.stream} is not a task stream of agent {agent}")
    event = replace(delivery.event, source=f"/agents/{agent}", data=to_builtins(replace(lost, body=None)))
    return HandlerResult([(DEAD_LETTERS_STREAM, event)])
