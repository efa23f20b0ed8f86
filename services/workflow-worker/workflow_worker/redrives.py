"""Publishes dead letters again, as the gateway asks for it on `flotilla.redrives`.

A request names a dead letter; what is published is the stored entry, byte for byte, to the stream it was on. A task
whose ticket has expired gets a new one; a task that carries none of this fleet's stays what it is.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from flotilla.bus import DONE, Delivery, HandlerResult, Redis
from flotilla.bus.connection import execute_redis_command
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore, RedrivenEntry
from flotilla.bus.tickets import SignedEvent, ticket_problem
from flotilla.config.signing import Signer
from flotilla.contracts.dead_letters import REDRIVE_REQUESTED, RedriveRequested
from flotilla.contracts.envelope import decode_event, from_builtins
from flotilla.contracts.errors import DeadLetter, RetryLater, Undecodable, UnknownType
from flotilla.contracts.ids import utc_now
from flotilla.contracts.names import (
    EVENT_FIELD,
    REPLIES_STREAM,
    REPLY_STREAM_PREFIX,
    TASK_STREAM_PREFIX,
    TICKET_FIELD,
    task_stream,
)
from flotilla.contracts.tasks import AgentTask
from flotilla.encryption import is_readable
from flotilla.postgres import UNSTORABLE, Pool, retry_later_if_unavailable, tenant_transaction
from workflow_worker.bridge import entry_age_s
from workflow_worker.delegations import allow_hop_answer_again, sign_task_again

UNCOMMITTED_REQUEST_WAIT_S = 60.0
"""How long a request waits for the transaction that it was made in."""
REDRIVEN_TASK_TIME = timedelta(minutes=30)

_EVENT, _TICKET = EVENT_FIELD.encode(), TICKET_FIELD.encode()
# A dead-lettered task waits for its agent again.
_REQUEUE_TASK = """
UPDATE flotilla.agent_tasks SET status = 'queued', entry_id = NULL, failure = NULL, finished_at = NULL
WHERE tenant_id = $1 AND task_id = $2 AND status = 'dead_lettered'
"""
log = structlog.get_logger(__name__)


class RedriveHandler:
    """Handles the entries of `flotilla.redrives`."""

    def __init__(self, pool: Pool, redis: Redis, signer: Signer) -> None:
        self._pool = pool
        self._redis = redis
        self._signer = signer
        self._letters = PostgresDeadLetterStore(pool)

    async def handle_redrive(self, delivery: Delivery) -> HandlerResult:
        """Publish what is asked for.

        Raises:
            UnknownType, Undecodable: not a request.
            DeadLetter: nobody asked for that letter, its text was erased, or its stream is not one of the fleet's.
            RetryLater: PostgreSQL or Redis is unavailable.
        """
        if delivery.event.type != REDRIVE_REQUESTED:
            raise UnknownType(f"entry {delivery.entry_id}: {delivery.event.type} is not {REDRIVE_REQUESTED}")
        wanted = from_builtins(delivery.event.data, RedriveRequested)
        entry = await self._letters.load_redriven_entry(wanted.tenant_id, wanted.dead_letter_id)
        if entry is None:
            why = f"nobody redrove dead letter {wanted.dead_letter_id} of tenant {wanted.tenant_id}"
            raise RetryLater(why) if entry_age_s(delivery.entry_id) < UNCOMMITTED_REQUEST_WAIT_S else DeadLetter(why)
        if not is_readable(body := entry.fields.get(_EVENT, b"")):
            raise DeadLetter(f"dead letter {wanted.dead_letter_id} is not published: its text is {body.decode()}")
        await self._publish_entry_again(wanted, entry)
        return DONE

    async def _publish_entry_again(self, wanted: RedriveRequested, entry: RedrivenEntry) -> None:
        if entry.stream.startswith(TASK_STREAM_PREFIX):
            await self._publish_task_again(wanted.tenant_id, entry)
        elif entry.stream == REPLIES_STREAM or entry.stream.startswith(REPLY_STREAM_PREFIX):
            await self._append_entry(entry)
        else:
            raise DeadLetter(f"dead letter {wanted.dead_letter_id} was on {entry.stream}, where nothing is redriven")
        log.info("dead_letter_published", dead_letter_id=wanted.dead_letter_id, stream=entry.stream)

    async def _publish_task_again(self, tenant_id: str, entry: RedrivenEntry) -> None:
        task = self._decode_signed_task(entry)
        if task is None or task.tenant_id != tenant_id:
            await self._append_entry(entry)  # as it was: nothing in it counts, and its agent reports it again
            return
        task, entry = self._with_renewed_ticket(task, entry)
        # Any version of the agent may take it: the one that gave it up may be gone.
        entry = replace(entry, stream=task_stream(task.agent))
        sealed = SignedEvent(entry.fields[_EVENT], entry.fields[_TICKET].decode())
        try:
            with retry_later_if_unavailable():
                async with tenant_transaction(self._pool, tenant_id) as connection:
                    if not await allow_hop_answer_again(connection, task, sealed):
                        log.warning("redrive_too_late", task_id=task.task_id, attempt=task.attempt)
                    await connection.execute(_REQUEUE_TASK, tenant_id, task.task_id)
        except UNSTORABLE as error:
            raise DeadLetter(f"task {task.task_id}: {error}") from error
        await self._append_entry(entry)  # after the commit: an agent may answer at once

    def _decode_signed_task(self, entry: RedrivenEntry) -> AgentTask | None:
        """The task in an entry that this fleet signed."""
        if ticket_problem(entry.fields, self._signer.public_keys()) is not None:
            return None
        try:
            task = from_builtins(decode_event(entry.fields[_EVENT]).data, AgentTask)
        except Undecodable:
            return None
        return task if task.deadline is not None and task.secret is not None else None

    def _with_renewed_ticket(self, task: AgentTask, entry: RedrivenEntry) -> tuple[AgentTask, RedrivenEntry]:
        """The task as it was, or with a new ticket where its time is over."""
        now = utc_now()
        if task.deadline is not None and datetime.fromisoformat(task.deadline) > now:
            return task, entry
        task, sealed = sign_task_again(task, now + REDRIVEN_TASK_TIME, self._signer)
        return task, RedrivenEntry(entry.stream, {_EVENT: sealed.body, _TICKET: sealed.ticket.encode()})

    async def _append_entry(self, entry: RedrivenEntry) -> None:
        await execute_redis_command(
            self._redis, "XADD", entry.stream, "*", *(part for pair in entry.fields.items() for part in pair)
        )
