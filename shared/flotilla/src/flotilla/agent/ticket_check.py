"""Which tasks an agent works on: those with a valid ticket of the worker, before anything in them counts."""

from datetime import datetime, timedelta

import structlog

from flotilla.bus import Delivery
from flotilla.bus.tickets import ticket_problem
from flotilla.config.signing import PublicKeys
from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.errors import DeadLetter, RetryLater, Undecodable, UnknownType, Untrusted
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.names import TICKET_FIELD
from flotilla.contracts.tasks import TASK_REQUESTED, AgentTask
from flotilla.postgres import Pool, retry_later_if_unavailable
from flotilla.telemetry.metrics import TASKS_REFUSED

MAX_CLOCK_DIFFERENCE = timedelta(seconds=60)
"""How far the clocks of Temporal and PostgreSQL may differ."""
# `waits` for a task that a former version of the worker delegated, `superseded` once the worker has issued its ticket.
_SELECT_UNTICKETED_TASK_VERDICT = "SELECT flotilla.unticketed_task($1, $2, $3, $4)"
_SELECT_IS_PAST = "SELECT clock_timestamp() > $1"
_TICKET_FIELD_BYTES = TICKET_FIELD.encode()

log = structlog.get_logger(__name__)


class TaskTicketCheck:
    """Looks at what arrives on the task stream of one agent."""

    def __init__(self, agent: str, keys: PublicKeys, pool: Pool, clock: Clock = utc_now) -> None:
        self._agent = agent
        self._keys = keys
        self._pool = pool
        self._clock = clock

    async def check_and_read_task(self, delivery: Delivery) -> AgentTask | None:
        """The task; None for one that was published again with a ticket.

        Raises:
            Untrusted: the worker did not sign it.
            UnknownType, DeadLetter: it is not a task of this agent, or its time is over.
            RetryLater: a former version of the worker delegated it, and this version has not issued its ticket yet.
        """
        problem = ticket_problem(delivery.fields, self._keys)
        if problem is not None:
            await self._raise_unless_published_again(delivery, problem)
            return None
        event = delivery.event
        if event.type != TASK_REQUESTED:
            raise UnknownType(f"entry {delivery.entry_id}: type {event.type}, this agent reads {TASK_REQUESTED}")
        task = from_builtins(event.data, AgentTask)
        if task.agent != self._agent:
            raise self._log_refused_task(
                "agent", f"task {task.task_id} is for agent {task.agent!r}, not {self._agent!r}"
            )
        await self._check_ticket_time(task)
        return task

    async def _check_ticket_time(self, task: AgentTask) -> None:
        if task.deadline is None:
            raise self._log_refused_task("deadline", f"task {task.task_id} has no deadline")
        over_at = datetime.fromisoformat(task.deadline) + MAX_CLOCK_DIFFERENCE
        if self._clock() > over_at and await self._is_task_overdue(over_at, task):
            TASKS_REFUSED.labels(self._agent, "expired").inc()
            raise DeadLetter(
                f"the ticket of task {task.task_id} expired at {task.deadline}: redrive the dead letter for a new one"
            )

    async def _is_task_overdue(self, over_at: datetime, task: AgentTask) -> bool:
        """Ask the database, whose clock counts for all services: this machine's may be wrong."""
        with retry_later_if_unavailable(f"task {task.task_id} stays pending"):
            return bool(await self._pool.fetchval(_SELECT_IS_PAST, over_at))

    async def _raise_unless_published_again(self, delivery: Delivery, problem: str) -> None:
        """Raise, unless the worker has published this task again."""
        fields = delivery.fields or {}
        verdict = None if _TICKET_FIELD_BYTES in fields else await self._load_unticketed_verdict(delivery)
        if verdict == "waits":
            raise RetryLater(f"entry {delivery.entry_id} waits until the worker issues its ticket")
        if verdict != "superseded":
            raise self._log_refused_task("ticket", f"entry {delivery.entry_id} is not the worker's: {problem}")
        log.info("task_superseded", entry_id=delivery.entry_id)

    async def _load_unticketed_verdict(self, delivery: Delivery) -> str | None:
        try:
            task = from_builtins(delivery.event.data, AgentTask)
        except Undecodable:
            return None
        with retry_later_if_unavailable():
            return await self._pool.fetchval(  # type: ignore[no-any-return]
                _SELECT_UNTICKETED_TASK_VERDICT, task.tenant_id, task.task_id, self._agent, task.attempt
            )

    def _log_refused_task(self, reason: str, message: str) -> Untrusted:
        TASKS_REFUSED.labels(self._agent, reason).inc()
        log.error("task_refused", agent=self._agent, reason=reason, error=message)
        return Untrusted(message)
