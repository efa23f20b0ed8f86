"""Dead letters in `flotilla.dead_letters`: kept by consumers, listed, redriven and discarded by people."""

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from flotilla.bus.connection import Redis
from flotilla.bus.dead_letters import (
    TaskReference,
    UnhandledEntry,
    decode_event_if_possible,
    decode_task_if_possible,
    make_dead_letter_announcement,
    make_failure_reply,
)
from flotilla.bus.publisher import Publisher
from flotilla.contracts.dead_letters import (
    REDRIVE_REQUESTED,
    DeadLetterBody,
    DeadLetterRecord,
    RedriveRequested,
)
from flotilla.contracts.envelope import AgentEvent, to_builtins
from flotilla.contracts.errors import Conflict, no_such
from flotilla.contracts.ids import IdMaker, new_id
from flotilla.contracts.names import EVENT_FIELD, REDRIVES_STREAM, REPLY_STREAM_PREFIX
from flotilla.contracts.values import to_storable_text
from flotilla.encryption import KeyRefused, Row
from flotilla.encryption.tables import AGENT_TASKS, DEAD_LETTERS
from flotilla.postgres import (
    UNSTORABLE,
    Connection,
    Pool,
    TaskProof,
    acting_for_task,
    open_row,
    open_rows,
    retry_later_if_unavailable,
    seal_columns,
    tenant_transaction,
)
from flotilla.telemetry.metrics import DEAD_LETTERS_NOT_KEPT

# Keeps an entry once, whichever consumer of the group buries it.
_KEEP_DEAD_LETTER = (
    "SELECT flotilla.keep_dead_letter($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::jsonb)"
)
# The task's state, unless it was done after all.
_MARK_TASK_DEAD_LETTERED = """
UPDATE flotilla.agent_tasks AS t SET
    status = 'dead_lettered', attempt = $3, failure = $4::jsonb, finished_at = now()
WHERE t.tenant_id = $1 AND t.task_id = $2 AND t.status NOT IN ('done', 'cancelled') AND t.attempt <= $3
"""
# A page, newest first; `$3` and `$4` are the last row of the page before.
_LIST_DEAD_LETTERS = """
SELECT dead_letter_id, stream, consumer_group, entry_id, task_id, session_id, run_id, event_type, reason, error,
       attempts, created_at, redriven_at, discarded_at
FROM flotilla.dead_letters
WHERE ($1::text IS NULL OR stream = $1)
  AND ($2 OR (redriven_at IS NULL AND discarded_at IS NULL))
  AND ($3::timestamptz IS NULL OR (created_at, dead_letter_id) < ($3, $4))
ORDER BY created_at DESC, dead_letter_id DESC LIMIT $5
"""
_GET_DEAD_LETTER = "SELECT * FROM flotilla.dead_letters WHERE dead_letter_id = $1"
_OPEN_OF_STREAM = """
SELECT dead_letter_id FROM flotilla.dead_letters
WHERE stream = $1 AND redriven_at IS NULL AND discarded_at IS NULL ORDER BY created_at, dead_letter_id LIMIT 1000
"""
# Two people who redrive at once: the second one waits here, then finds it redriven.
_LOCK_DEAD_LETTER = "SELECT * FROM flotilla.dead_letters WHERE dead_letter_id = $1 FOR UPDATE"
_MARK_REDRIVEN = "UPDATE flotilla.dead_letters SET redriven_at = now() WHERE dead_letter_id = $1"
_MARK_DISCARDED = "UPDATE flotilla.dead_letters SET discarded_at = now() WHERE dead_letter_id = $1"
_GET_REDRIVEN = "SELECT * FROM flotilla.dead_letters WHERE dead_letter_id = $1 AND redriven_at IS NOT NULL"
# Open dead letters of every tenant on one stream, up to $2.
_COUNT_OPEN_ON_STREAM = "SELECT flotilla.open_dead_letters($1, $2)"
# Open dead letters of every tenant, by stream.
_COUNT_OPEN_BY_STREAM = "SELECT stream, letters FROM flotilla.dead_letter_counts(10001)"


MAX_OPEN_FROM_REPLIES = 1000
"""Open dead letters that one agent's replies may leave, of all tenants: an agent may send any number that nobody can
use, and name any tenant in them. What comes beyond is counted and logged, not kept."""


@dataclass(frozen=True, slots=True)
class RedrivenEntry:
    """An entry as it was when it became a dead letter, with the stream it was on."""

    stream: str
    fields: Mapping[bytes, bytes]


class PostgresDeadLetterStore:
    """The durable dead letters. Rows whose tenant can't be read belong to the operator's tenant."""

    def __init__(self, pool: Pool, operator_tenant: str = "default", *, make_id: IdMaker = new_id) -> None:
        self._pool = pool
        self._operator_tenant = operator_tenant
        self._make_id = make_id

    async def keep(self, lost: UnhandledEntry) -> list[tuple[str, AgentEvent]]:
        """Store the entry, mark its task, and return the announcement and the failure for the waiting caller; nothing
        where its stream has left more than a person looks at.

        Raises:
            RetryLater: PostgreSQL is unavailable; the entry stays pending.
        """
        with retry_later_if_unavailable(f"entry {lost.entry.entry_id} stays pending"):
            try:
                return await self._store_and_announce(lost, _EntrySubject.from_entry(lost, self._operator_tenant))
            except UNSTORABLE:  # names that no row of ours could have, too: the entry is kept without them
                return await self._store_and_announce(lost, _EntrySubject(self._operator_tenant))

    async def _store_and_announce(self, lost: UnhandledEntry, names: "_EntrySubject") -> list[tuple[str, AgentEvent]]:
        with acting_for_task(_proof_of_held_task(names.task)):
            async with tenant_transaction(self._pool, names.tenant) as connection:
                if await _has_too_many_open(connection, lost.stream):
                    DEAD_LETTERS_NOT_KEPT.labels(lost.stream).inc()
                    return []
                dead_letter_id = await self._insert_dead_letter(connection, lost, names)
                if names.task is not None and lost.agent is not None and lost.trusted:
                    await _mark_task_dead_lettered(connection, names.tenant, lost, names.task)
        return [make_dead_letter_announcement(lost, dead_letter_id=dead_letter_id), *make_failure_reply(lost)]

    async def _insert_dead_letter(self, connection: Connection, lost: UnhandledEntry, names: "_EntrySubject") -> str:
        dead_letter_id = self._make_id()
        stored: dict[str, Any] = {"error": to_storable_text(lost.error), "body": lost.body}
        if names.session_id is not None:
            place = (names.tenant, names.session_id, DEAD_LETTERS, dead_letter_id)
            with suppress(KeyRefused):  # of no task that this process holds: kept as it came
                stored = await seal_columns(connection, *place, **stored)
        kept: str = await connection.fetchval(
            _KEEP_DEAD_LETTER,
            names.tenant,
            dead_letter_id,
            lost.stream,
            lost.group,
            lost.entry.entry_id,
            names.task_id,
            names.session_id,
            names.run_id,
            names.event_type,
            lost.reason,
            stored["error"],
            lost.entry.deliveries,
            stored["body"],
            _fields_to_json(lost.entry.fields),
        )
        return kept

    async def list_dead_letters(
        self,
        tenant_id: str,
        *,
        stream: str | None = None,
        closed_too: bool = False,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[DeadLetterRecord]:
        """Dead letters of the tenant, newest first. `before` is `(created_at, dead_letter_id)` of the last one seen."""
        created_at, dead_letter_id = before or (None, None)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            found = await connection.fetch(_LIST_DEAD_LETTERS, stream, closed_too, created_at, dead_letter_id, limit)
            rows = await open_rows(connection, tenant_id, DEAD_LETTERS, found)
        return [_dead_letter_from_row(row) for row in rows]

    async def get_dead_letter(self, tenant_id: str, dead_letter_id: str) -> DeadLetterBody:
        """One dead letter with its body.

        Raises:
            NotFound: the tenant has no such dead letter.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            found = await connection.fetchrow(_GET_DEAD_LETTER, dead_letter_id)
            if found is None:
                raise no_such("dead letter", dead_letter_id)
            row = await open_row(connection, tenant_id, DEAD_LETTERS, found)
        fields = {_decode_for_display(k): _decode_for_display(v) for k, v in _fields_from_row(row).items()}
        return DeadLetterBody(record=_dead_letter_from_row(row), body=_decode_for_display(row["body"]), fields=fields)

    async def request_redrive(self, redis: Redis, tenant_id: str, dead_letter_id: str) -> str:
        """Ask the worker to publish the entry again, with its own ids; return the id of that request.

        At least once: a crash between the two leaves it open, and a task that runs twice has one effect.

        Raises:
            NotFound: the tenant has no such dead letter.
            Conflict: it was redriven or discarded already.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _load_open_dead_letter(connection, dead_letter_id)
            await connection.execute(_MARK_REDRIVEN, dead_letter_id)
            wanted = AgentEvent(
                type=REDRIVE_REQUESTED, source="/gateway", subject=dead_letter_id, tenant=tenant_id,
                data=to_builtins(RedriveRequested(tenant_id=tenant_id, dead_letter_id=dead_letter_id)),
            )  # fmt: skip
            return await Publisher(redis).publish(REDRIVES_STREAM, wanted)

    async def load_redriven_entry(self, tenant_id: str, dead_letter_id: str) -> RedrivenEntry | None:
        """The entry that is to be published again; None unless somebody asked for it.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        with retry_later_if_unavailable():
            async with tenant_transaction(self._pool, tenant_id) as connection:
                found = await connection.fetchrow(_GET_REDRIVEN, dead_letter_id)
                row = found and await open_row(connection, tenant_id, DEAD_LETTERS, found)
        return None if row is None else RedrivenEntry(row["stream"], _fields_from_row(row))

    async def request_stream_redrive(self, redis: Redis, tenant_id: str, stream: str) -> int:
        """Redrives up to 1,000 open dead letters of `stream`, oldest first; how many it did."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(_OPEN_OF_STREAM, stream)
        redriven = 0
        for row in rows:
            try:
                await self.request_redrive(redis, tenant_id, row["dead_letter_id"])
            except Conflict:
                continue  # someone else was quicker
            redriven += 1
        return redriven

    async def discard_dead_letter(self, tenant_id: str, dead_letter_id: str) -> None:
        """Closes the dead letter for good; its row stays as a record.

        Raises:
            NotFound: the tenant has no such dead letter.
            Conflict: it was redriven or discarded already.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _load_open_dead_letter(connection, dead_letter_id)
            await connection.execute(_MARK_DISCARDED, dead_letter_id)

    async def count_open_by_stream(self) -> dict[str, int]:
        """Open dead letters by stream, of all tenants, capped at 10,001 in all."""
        return {row["stream"]: int(row["letters"]) for row in await self._pool.fetch(_COUNT_OPEN_BY_STREAM)}


async def _has_too_many_open(connection: Connection, stream: str) -> bool:
    if not stream.startswith(REPLY_STREAM_PREFIX):
        return False
    found: int = await connection.fetchval(_COUNT_OPEN_ON_STREAM, stream, MAX_OPEN_FROM_REPLIES)
    return found >= MAX_OPEN_FROM_REPLIES


@dataclass(frozen=True, slots=True)
class _EntrySubject:
    """What the entry says that it is about."""

    tenant: str
    task: TaskReference | None = None
    task_id: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    event_type: str | None = None

    @classmethod
    def from_entry(cls, lost: UnhandledEntry, operator_tenant: str) -> "_EntrySubject":
        event, task = decode_event_if_possible(lost.body), decode_task_if_possible(lost.body)
        return cls(
            _without_nul((task.tenant_id if task else None) or (event.tenant if event else None) or operator_tenant),
            task,
            _optional_without_nul(task.task_id if task else (event.taskid if event else None)),
            _optional_without_nul((task.session_id if task else None) or (event.subject if event else None)),
            _optional_without_nul((task.run_id if task else None) or (event.runid if event else None)),
            _optional_without_nul(event.type if event else None),
        )


def _proof_of_held_task(task: TaskReference | None) -> TaskProof | None:
    """What lets an agent say of its task that it is a dead letter."""
    if task is None or not task.secret:
        return None
    return TaskProof(task_id=_without_nul(task.task_id), attempt=task.attempt, secret=_without_nul(task.secret))


async def _mark_task_dead_lettered(
    connection: Connection, tenant: str, lost: UnhandledEntry, task: TaskReference
) -> None:
    message = to_storable_text(f"{lost.reason}: {lost.error}")
    failure = json.dumps({"type": "DeadLetter", "message": message, "retryable": False})
    task_id = _without_nul(task.task_id)
    if task.session_id is not None:
        place = (tenant, _without_nul(task.session_id), AGENT_TASKS, task_id)
        try:
            failure = (await seal_columns(connection, *place, failure=failure))["failure"]
        except KeyRefused:  # the task is over
            return
    await connection.execute(_MARK_TASK_DEAD_LETTERED, tenant, task_id, task.attempt, failure)


async def _load_open_dead_letter(connection: Connection, dead_letter_id: str) -> asyncpg.Record:
    row = await connection.fetchrow(_LOCK_DEAD_LETTER, dead_letter_id)
    if row is None:
        raise no_such("dead letter", dead_letter_id)
    if row["redriven_at"] or row["discarded_at"]:
        done = "redriven" if row["redriven_at"] else "discarded"
        raise Conflict(f"dead letter {dead_letter_id} was {done} at {row['redriven_at'] or row['discarded_at']}")
    return row


def _dead_letter_from_row(row: Row) -> DeadLetterRecord:
    return DeadLetterRecord(
        dead_letter_id=row["dead_letter_id"],
        stream=row["stream"],
        group=row["consumer_group"],
        entry_id=row["entry_id"],
        task_id=row["task_id"],
        session_id=row["session_id"],
        run_id=row["run_id"],
        event_type=row["event_type"],
        reason=row["reason"],
        error=row["error"],
        attempts=row["attempts"],
        created_at=row["created_at"],
        redriven_at=row["redriven_at"],
        discarded_at=row["discarded_at"],
    )


def _without_nul(value: str) -> str:
    """PostgreSQL's text has no NUL; a poisoned id must not keep its entry out of the dead letters."""
    return value.replace("\x00", "\ufffd")


def _optional_without_nul(value: str | None) -> str | None:
    return None if value is None else _without_nul(value)


def _decode_for_display(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _fields_to_json(fields: Mapping[bytes, bytes]) -> str:
    """Every field but the body, exactly: base64, since neither names nor values need to be text."""
    rest = {name: value for name, value in fields.items() if name != EVENT_FIELD.encode()}
    return json.dumps({base64.b64encode(k).decode(): base64.b64encode(v).decode() for k, v in rest.items()})


def _fields_from_row(row: Row) -> dict[bytes, bytes]:
    stored: dict[str, Any] = json.loads(row["fields"])
    rest = {base64.b64decode(k): base64.b64decode(v) for k, v in stored.items()}
    return {EVENT_FIELD.encode(): row["body"], **rest} if row["body"] or not rest else rest
