"""The rows of `flotilla.schedules`."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from flotilla.contracts.envelope import from_json, to_builtins, to_json
from flotilla.contracts.errors import Conflict, Forbidden, NotFound, no_such
from flotilla.contracts.names import QUESTION
from flotilla.contracts.requests import RAGRequest, WorkflowRequest, read_run_request
from flotilla.contracts.schedules import When
from flotilla.eventstore.sessions import SessionAccess, check_may_write_session
from flotilla.postgres import Connection, Pool, tenant_transaction
from flotilla.postgres.viewer import current_viewer
from gateway.auth.issuers import key_issuers_of_requester
from gateway.auth.principal import Principal
from gateway.schemas.schedules import Schedule

MAX_SCHEDULES = 1000
"""Of one tenant."""
_COLUMNS = """schedule_id, temporal_id, fires, request, workflow, metadata, paused, note, user_id, acted_by, created_at,
    updated_at, generation, synced = generation AS is_synced"""
_INSERT_SCHEDULES = """
INSERT INTO flotilla.schedules (tenant_id, schedule_id, temporal_id, fires, request, workflow, metadata, paused, note,
    user_id, key_id, owner, names, sees_all, visibility)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7::jsonb, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (tenant_id, schedule_id) DO NOTHING
RETURNING 1
"""
# Also counts those that the caller does not see.
_SELECT_SCHEDULES_HELD = "SELECT flotilla.schedules_held()"
_SELECT_SCHEDULES = f"""
SELECT {_COLUMNS} FROM flotilla.schedules WHERE tenant_id = $1 AND schedule_id = $2 AND deleted_at IS NULL
"""  # noqa: S608 - constants
_LIST_SCHEDULES = f"""
SELECT {_COLUMNS} FROM flotilla.schedules
WHERE tenant_id = $1 AND deleted_at IS NULL AND ($3::timestamptz IS NULL OR (created_at, schedule_id) < ($3, $4))
ORDER BY created_at DESC, schedule_id DESC LIMIT $2
"""  # noqa: S608
_CHANGE_SCHEDULES = """
UPDATE flotilla.schedules AS s SET fires = $3::jsonb, request = $4::jsonb, metadata = $5::jsonb, paused = $6, note = $7,
    user_id = $8, key_id = $9, owner = $10, names = $11, sees_all = $12, visibility = $13,
    acted_by = flotilla_ops.acted_by(), person = nullif(current_setting('flotilla.person', true), ''),
    service = nullif(current_setting('flotilla.service', true), ''), generation = s.generation + 1, updated_at = now()
FROM (SELECT * FROM flotilla.schedules WHERE tenant_id = $1 AND schedule_id = $2 FOR UPDATE) AS former
WHERE s.tenant_id = $1 AND s.schedule_id = $2 AND former.generation = $14 AND former.deleted_at IS NULL
RETURNING to_jsonb(former)::text
"""
# Unless somebody has changed it since: a change bumps the generation.
_RESTORE_SCHEDULES = """
UPDATE flotilla.schedules AS s SET fires = f.fires, request = f.request, metadata = f.metadata, paused = f.paused,
    note = f.note, user_id = f.user_id, key_id = f.key_id, owner = f.owner, names = f.names, sees_all = f.sees_all,
    visibility = f.visibility, acted_by = f.acted_by, person = f.person, service = f.service,
    generation = s.generation + 1, updated_at = now()
FROM jsonb_populate_record(NULL::flotilla.schedules, $3::jsonb) AS f
WHERE s.tenant_id = $1 AND s.schedule_id = $2 AND s.generation = f.generation + 1
"""
_DELETE_SCHEDULES = """
UPDATE flotilla.schedules SET deleted_at = now(), generation = generation + 1, updated_at = now()
WHERE tenant_id = $1 AND schedule_id = $2 AND deleted_at IS NULL RETURNING generation
"""
_TAKE_BACK = """
UPDATE flotilla.schedules SET deleted_at = now(), generation = generation + 1, updated_at = now()
WHERE tenant_id = $1 AND schedule_id = $2 AND deleted_at IS NULL AND generation = $3
"""
FIRST_GENERATION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """A schedule as its maker wants it."""

    schedule_id: str
    when: When
    request: RAGRequest | WorkflowRequest
    metadata: dict[str, str]
    paused: bool
    note: str


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A row: what clients see of it, and what it is kept as."""

    shown: Schedule
    wanted: ScheduleSpec
    temporal_id: str
    is_synced: bool


async def add(pool: Pool, wanted: ScheduleSpec, temporal_id: str, caller: Principal, access: SessionAccess) -> None:
    """Store a new schedule.

    Raises:
        Conflict: there is one of that id, or the tenant has 1,000.
        NotFound, Forbidden: the caller may not write to its session.
    """
    async with tenant_transaction(pool, caller.tenant_id) as connection:
        wanted = await _made_by(connection, wanted, caller)
        if (count := await connection.fetchval(_SELECT_SCHEDULES_HELD)) >= MAX_SCHEDULES:
            raise Conflict(f"tenant {caller.tenant_id} has {count} schedules, {MAX_SCHEDULES} are allowed: delete one")
        added = await connection.fetchval(
            _INSERT_SCHEDULES,
            caller.tenant_id,
            wanted.schedule_id,
            temporal_id,
            to_json(wanted.when).decode(),
            to_json(wanted.request).decode(),
            _workflow(wanted.request),
            to_json(wanted.metadata).decode(),
            wanted.paused,
            wanted.note,
            caller.subject,
            *_maker(caller, access),
        )
    if added is None:
        # One that the caller may not see, or that is being deleted, is in the way, too.
        raise Conflict(f"schedule {wanted.schedule_id} exists: choose another schedule_id, or change that one")


async def update_schedule(
    pool: Pool, wanted: ScheduleSpec, caller: Principal, access: SessionAccess, *, generation: int
) -> str | None:
    """Store what the schedule is from now on; its maker is who asks. Return what it was, for `restore_schedule`.

    None where it is not in `generation` any more: it was changed or deleted meanwhile, and nothing happened.

    Raises:
        NotFound, Forbidden: the caller may not write to its session.
    """
    async with tenant_transaction(pool, caller.tenant_id) as connection:
        wanted = await _made_by(connection, wanted, caller)
        former: str | None = await connection.fetchval(
            _CHANGE_SCHEDULES,
            caller.tenant_id,
            wanted.schedule_id,
            to_json(wanted.when).decode(),
            to_json(wanted.request).decode(),
            to_json(wanted.metadata).decode(),
            wanted.paused,
            wanted.note,
            caller.subject,
            *_maker(caller, access),
            generation,
        )
    return former


async def restore_schedule(pool: Pool, tenant_id: str, schedule_id: str, former: str) -> None:
    """Make the schedule, and its maker, what `update_schedule` found, unless somebody else has changed it since."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(_RESTORE_SCHEDULES, tenant_id, schedule_id, former)


async def take_back_schedule(pool: Pool, tenant_id: str, schedule_id: str) -> None:
    """Delete a new schedule, unless it was changed since."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(_TAKE_BACK, tenant_id, schedule_id, FIRST_GENERATION)


async def remove_schedule(pool: Pool, tenant_id: str, schedule_id: str) -> int:
    """Delete a schedule, and return the generation that it is deleted in; its runs stay.

    Raises:
        NotFound: the caller sees no such schedule.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        generation: int | None = await connection.fetchval(_DELETE_SCHEDULES, tenant_id, schedule_id)
    if generation is None:
        raise _no_schedule(schedule_id)
    return generation


async def get(pool: Pool, tenant_id: str, schedule_id: str) -> StoredSchedule:
    """Return one schedule.

    Raises:
        NotFound: the caller sees no such schedule.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_SCHEDULES, tenant_id, schedule_id)
    if row is None:
        raise _no_schedule(schedule_id)
    return _stored(row)


async def page(
    pool: Pool, tenant_id: str, *, limit: int, before: tuple[datetime | None, str | None]
) -> list[asyncpg.Record]:
    """Return the rows of a page, newest first."""
    async with tenant_transaction(pool, tenant_id) as connection:
        return await connection.fetch(_LIST_SCHEDULES, tenant_id, limit, *before)


def schedules_from_rows(rows: Sequence[asyncpg.Record]) -> list[Schedule]:
    """Return rows as clients see them."""
    return [_stored(row).shown for row in rows]


async def _made_by(connection: Connection, wanted: ScheduleSpec, caller: Principal) -> ScheduleSpec:
    """The schedule as the caller's: checked against their rights."""
    request = wanted.request
    if request.session_id:
        # One that is not there is made by the first run; if it is somebody else's, that run is refused.
        with suppress(NotFound):
            await check_may_write_session(connection, caller.tenant_id, request.session_id)
    if isinstance(request, WorkflowRequest):
        through = await key_issuers_of_requester(connection, caller, caller.subject)
        request = replace(
            request,
            requested_through=through,
            requested_by_service=not caller.is_person,
            acted_by=caller.acted_by or "",
        )
    return replace(wanted, request=replace(request, user_id=caller.subject))


def _maker(caller: Principal, access: SessionAccess) -> tuple[str | None, str, list[str], bool, str]:
    viewer = current_viewer()
    if viewer is None:
        raise Forbidden("nobody asks for this schedule")
    return caller.key_id, caller.name, list(viewer.names), viewer.sees_all, access.visibility


def _workflow(request: RAGRequest | WorkflowRequest) -> str:
    return QUESTION if isinstance(request, RAGRequest) else request.workflow


def _stored(row: asyncpg.Record) -> StoredSchedule:
    when = from_json(row["fires"], When)
    request = read_run_request(row["request"])
    metadata: dict[str, str] = json.loads(row["metadata"])
    fields: dict[str, Any] = {name: getattr(when, name) for name in to_builtins(when) if name != "start_at"}
    fields |= {name: row[name] for name in ("schedule_id", "workflow", "paused", "note", "acted_by", "created_at")}
    schedule = Schedule(
        **fields,
        updated_at=row["updated_at"],
        query=request.query if isinstance(request, RAGRequest) else "",
        input=None if isinstance(request, RAGRequest) else dict(request.input),
        session_id=request.session_id or None,
        metadata=metadata,
        made_by=row["user_id"],
        generation=row["generation"],
    )
    wanted = ScheduleSpec(
        schedule_id=row["schedule_id"],
        when=when,
        request=request,
        metadata=metadata,
        paused=row["paused"],
        note=row["note"],
    )
    return StoredSchedule(schedule, wanted, row["temporal_id"], row["is_synced"])


def _no_schedule(schedule_id: str) -> NotFound:
    return no_such("schedule", schedule_id)
