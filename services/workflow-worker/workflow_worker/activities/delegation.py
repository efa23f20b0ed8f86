"""`delegate`: hands a task to an agent through Redis and waits without holding anything.

The activity publishes and returns "will complete asynchronously"; the bridge completes it by ids when the agent
answers. Each attempt first looks whether the answer is there, or the earlier entry still in the stream, so retries
after a silent 20 s neither repeat work nor pile up entries.
"""

from datetime import datetime, timedelta

from redis.asyncio import Redis
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.bus.known_agents import KnownAgents
from flotilla.config.signing import Signer
from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import TenantSuspended
from flotilla.contracts.names import cancelled_key
from flotilla.contracts.results import result_reference
from flotilla.contracts.tasks import MAX_INLINE_RESULT_BYTES, AgentTask, Failure, ReplyAddress
from flotilla.encryption import sealed_task
from flotilla.postgres import Pool, SuspendedTenants, session_cipher, tenant_transaction
from flotilla.workflows.calls.delegation import (
    DELEGATE,
    MAX_REASON_CHARS,
    SUSPENDED,
    TELL_AGENT_CANCELLED,
    AgentFailure,
    CancelledTask,
    TaskOutcome,
)
from workflow_worker.delegations import (
    HopPublisher,
    PublishableHop,
    SlipHop,
    find_next_open_hop,
    insert_first_hop,
    insert_hop,
    load_publishable_hop,
)
from workflow_worker.settlement import ReplyRefused, check_requested_calls

CANCEL_KEY_TTL_S = 3600
MAX_FAILURE_TYPE_CHARS = 200
"""Of a failure's type: an agent may send any."""


class DelegationActivities:
    """The activities around a delegated task."""

    def __init__(self, pool: Pool, redis: Redis, publisher: HopPublisher, signer: Signer, agents: KnownAgents) -> None:
        self._pool = pool
        self._redis = redis
        self._publisher = publisher
        self._signer = signer
        self._agents = agents
        self._tenants = SuspendedTenants(pool, with_finishing=False)

    @activity.defn(name=DELEGATE)
    async def delegate(self, task: AgentTask) -> TaskOutcome:
        """Publishes `task` to its agent; the bridge completes this activity with the answer.

        In a slip, the first hop without a result is published: those before it are done. Idempotency key: (tenant,
        task id, try).

        Raises:
            ApplicationError: the agent's failure of this try, non-retryable: the workflow decides about another try.
            UnknownAgent: the fleet has no agent of that name; the message names those that it has.
            ApplicationError: `TenantSuspended`: the tenant is suspended, so nothing is given out.
        """
        if activity.info().attempt == 1:  # what was given out before is waited for
            await self._check_tenant_active(task.tenant_id)
        await self._agents.check_agents_are_known((task.agent, *task.slip))
        opened = await self._open_hop_or_stored_answer(await self._encrypt_task_input(task))
        if isinstance(opened, PublishableHop):
            await self._publisher.publish_hop(opened)
            activity.raise_complete_async()
        return opened

    async def _check_tenant_active(self, tenant_id: str) -> None:
        try:
            await self._tenants.check_active(tenant_id)
        except TenantSuspended as error:
            raise ApplicationError(str(error), type=SUSPENDED, non_retryable=True) from error

    async def _encrypt_task_input(self, task: AgentTask) -> AgentTask:
        """The task with its input encrypted, where all who get it can open it."""
        async with self._pool.acquire() as connection:
            cipher = await session_cipher(connection, task.tenant_id, task.session_id)
        if cipher is not None and not await self._agents.are_registered((task.agent, *task.slip)):
            cipher = None
        return sealed_task(cipher, task)

    async def _open_hop_or_stored_answer(self, task: AgentTask) -> TaskOutcome | PublishableHop:
        if task.attempt == 1:  # nearly always nothing is on record yet: to look first would be a round trip for nothing
            first = await insert_first_hop(
                self._pool, task, _waiting_activity_address(), _attempt_deadline(), self._signer
            )
            if first is not None:
                return first
        # Not durable, so that nobody waits for the disk: a row that a crash of PostgreSQL takes away is opened again by
        # this activity's next attempt, for which the reply waits. Temporal has the task itself.
        async with tenant_transaction(self._pool, task.tenant_id, durable=False) as connection:
            hop = await find_next_open_hop(connection, task)
            if hop.stored is not None and hop.stored["status"] == "done":
                return outcome_from_result(hop.task.task_id, hop.stored["result"])
            _raise_if_task_over(hop)
            opened = None
            if hop.stored is not None:
                opened = await load_publishable_hop(connection, task.tenant_id, hop.task.task_id, task.attempt)
            return opened or await insert_hop(
                connection, hop.task, _waiting_activity_address(), _attempt_deadline(), self._signer
            )

    @activity.defn(name=TELL_AGENT_CANCELLED)
    async def tell_agent_cancelled(self, task: CancelledTask) -> None:
        """Sets the key that a working agent looks at. Safe to repeat."""
        await set_cancelled_key(self._redis, task.task_id)


async def set_cancelled_key(redis: Redis, task_id: str) -> None:
    """Tell the agent that works on `task_id` to stop."""
    await redis.set(cancelled_key(task_id), "1", ex=CANCEL_KEY_TTL_S)


def _raise_if_task_over(hop: SlipHop) -> None:
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
        raise failure_as_application_error(
            task.task_id, task.agent, task.attempt, _check_stored_failure(task, from_json(row["failure"], Failure))
        )


def _check_stored_failure(task: AgentTask, failure: Failure) -> Failure:
    """Return a stored failure; an agent that stored one and never replied is held to what it may ask for, too."""
    try:
        check_requested_calls(task.agent, task, failure)
    except ReplyRefused as error:
        return Failure(type="DeadLetter", message=f"refused: {error}", retryable=False)
    return failure


def outcome_from_result(task_id: str, result: str) -> TaskOutcome:
    """A stored result (JSON text) as a workflow gets it: inline, or by reference when it is large."""
    body = result.encode()
    found = from_json(body, dict)
    if len(body) <= MAX_INLINE_RESULT_BYTES:
        return TaskOutcome(task_id=task_id, result=found)
    return TaskOutcome(task_id=task_id, result_ref=result_reference(task_id, found))


def failure_as_application_error(task_id: str, agent: str, attempt: int, failure: Failure) -> ApplicationError:
    """An agent's failure as Temporal carries it. Never retried by Temporal: a new try is the workflow's decision."""
    details = AgentFailure(
        task_id=task_id,
        agent=agent,
        attempt=attempt,
        retryable=failure.retryable,
        approvals=failure.approvals,
        calls=failure.calls,
        retry_after_s=failure.retry_after_s,
    )
    message, kind = failure.message[:MAX_REASON_CHARS], failure.type[:MAX_FAILURE_TYPE_CHARS]
    return ApplicationError(message, details, type=kind, non_retryable=True)


def _waiting_activity_address() -> ReplyAddress:
    """This activity's address."""
    info = activity.info()
    return ReplyAddress(
        workflow_id=info.workflow_id or "",
        workflow_run_id=info.workflow_run_id or "",
        activity_id=info.activity_id,
    )


def _attempt_deadline() -> datetime:
    """When this try is over."""
    info = activity.info()
    return info.scheduled_time + (info.schedule_to_close_timeout or timedelta(minutes=30))
