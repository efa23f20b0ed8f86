"""Rows of runs whose workflow was started without the gateway: by a schedule, by another run, or with a client of
Temporal."""

from dataclasses import dataclass, field

import asyncpg
from temporalio.exceptions import ApplicationError

from flotilla.config import OpenWorkLimitSettings
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.event_builders import run_opening_events, run_queued_event
from flotilla.contracts.identity import LOCAL_ISSUER, parse_identity_name, user_name
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import QUESTION, TokenPayer, run_workflow_id, workflow_source
from flotilla.contracts.requests import ACTIVE_RUN_STATUSES, RAGRequest, WorkflowRequest
from flotilla.encryption.tables import RUNS
from flotilla.eventstore.sessions import (
    ACCESS_FOR_TENANT,
    SessionAccess,
    ensure_session,
    get_session,
    load_access_of_session,
    session_kind_of_request,
)
from flotilla.outbox import append
from flotilla.postgres import Connection, seal_columns
from flotilla.postgres.open_work import count_open_work
from flotilla.workflows.calls.runs import RUN_CLOSED

_SELECT_RUN_STATUS = "SELECT status FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
_INSERT_RUN = """
INSERT INTO flotilla.runs
    (tenant_id, run_id, session_id, user_id, workflow_id, query, request, workflow, first_seq, status, started_at,
     if_active, schedule_id, metadata, acted_by, person, service, parent_run_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $10 = 'running' THEN now() END, $11, $12, $13, $14, $15,
    $16, $17)
RETURNING live_key
"""
_SELECT_FIRING_SCHEDULE = "SELECT * FROM flotilla.firing_schedule($1, $2)"
_SELECT_PARENT_RUN = """
SELECT user_id, status, session_id, acted_by, person, service FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2
"""
_SELECT_MAY_WRITE = """
SELECT flotilla_ops.has_access(visibility, owner, writers, $3) FROM flotilla.sessions
WHERE tenant_id = $1 AND session_id = $2
"""
_SELECT_IS_SESSION_BUSY = """
SELECT EXISTS (SELECT FROM flotilla.runs WHERE tenant_id = $1 AND session_id = $2
               AND status IN ('queued', 'pending', 'running', 'interrupted'))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunMaker:
    """For whom the run is, as far as its request does not say it."""

    access: SessionAccess = ACCESS_FOR_TENANT
    metadata: str = "{}"
    acted_by: str | None = None
    person: str | None = None
    service: str | None = None
    through: JsonObject = field(default_factory=dict)


async def adopt_child_run(
    connection: Connection,
    request: RAGRequest | WorkflowRequest,
    workflow_id: str | None,
    limits: OpenWorkLimitSettings,
) -> str | None:
    """Add the run's row with its first events, and return the key of its live stream.

    None where the run of a schedule meets another run in its session: it waits in the queue, and has another workflow
    when its turn comes.

    Raises:
        ApplicationError: `RunClosed`: the run has ended. `ScheduleOver`: the schedule is deleted, or its maker may not
            start runs any more.
        RetryLater: as many runs of the schedule's maker are open as may be.
        ApplicationError: `TooManyRuns`: the same, for the run that another one starts. `Forbidden`: it may not write to
            the session.
        UniqueViolationError: another run of the session is active.
    """
    tenant_id, run_id, session_id = request.tenant_id, request.run_id, request.session_id
    status = await connection.fetchval(_SELECT_RUN_STATUS, tenant_id, run_id)
    if status is not None:
        raise run_closed_error(run_id, status)
    maker = await _find_run_maker(connection, request)
    if request.schedule_id or _parent_run_id(request):
        await _check_session_has_room(connection, request, maker, limits)
    await ensure_session(
        connection, tenant_id, session_id, request.user_id, maker.access, kind=session_kind_of_request(request)
    )
    if request.schedule_id and await _is_session_busy(connection, tenant_id, session_id):
        await _insert_run(connection, request, maker, f"{run_workflow_id(run_id)}-queued", waits=True)
        return None
    return await _insert_run(connection, request, maker, workflow_id or run_workflow_id(run_id))


async def _find_run_maker(connection: Connection, request: RAGRequest | WorkflowRequest) -> _RunMaker:
    if request.schedule_id:
        return await _maker_of_schedule(connection, request)
    return (
        await _maker_of_parent_run(connection, request, _parent_run_id(request))
        if _parent_run_id(request)
        else _RunMaker()
    )


def _parent_run_id(request: RAGRequest | WorkflowRequest) -> str:
    return request.parent_run_id if isinstance(request, WorkflowRequest) else ""


async def _maker_of_parent_run(
    connection: Connection, request: RAGRequest | WorkflowRequest, parent_run_id: str
) -> _RunMaker:
    """Who the parent's run is for; its session's people see the child's, too."""
    row = await connection.fetchrow(_SELECT_PARENT_RUN, request.tenant_id, parent_run_id)
    if row is None or row["user_id"] != request.user_id or row["status"] not in ACTIVE_RUN_STATUSES:
        raise run_closed_error(parent_run_id, row["status"] if row else "unknown")
    access = await load_access_of_session(connection, request.tenant_id, row["session_id"])
    # Who writes to a session of somebody else's does not reach the owner's other sessions that way.
    for who, name in (("its session's owner", access.owner), ("who started it", _maker_name(row, access.owner))):
        names = [name] if name else []
        if await connection.fetchval(_SELECT_MAY_WRITE, request.tenant_id, request.session_id, names) is False:
            message = f"run {parent_run_id} may not write to session {request.session_id}: {who} may not"
            raise ApplicationError(message, type="Forbidden", non_retryable=True)
    return _RunMaker(
        access=access,
        acted_by=row["acted_by"],
        person=row["person"],
        service=row["service"],
        through={"acted_by": row["acted_by"]} if row["acted_by"] else {},
    )


def _maker_name(run: asyncpg.Record, owner: str | None) -> str | None:
    """Whom the run is for: the person, or the service that started it in its own name, whose issuer it does not say."""
    person: str | None = run["person"]
    service: str | None = run["service"]
    if person or not service:
        return person
    return owner if owner and parse_identity_name(owner)[2] == service else user_name(LOCAL_ISSUER, service)


async def _maker_of_schedule(connection: Connection, request: RAGRequest | WorkflowRequest) -> _RunMaker:
    row = await connection.fetchrow(_SELECT_FIRING_SCHEDULE, request.tenant_id, request.schedule_id)
    if row is None:
        raise _schedule_over_error(request, "is deleted, or the key of its maker is revoked")
    may_write = await connection.fetchval(_SELECT_MAY_WRITE, request.tenant_id, request.session_id, row["names"])
    if may_write is False and not row["sees_all"]:
        raise _schedule_over_error(request, f"may not write to session {request.session_id}: its maker may not")
    return _RunMaker(
        access=SessionAccess(owner=row["owner"], visibility=row["visibility"]),
        metadata=row["metadata"],
        acted_by=row["acted_by"],
        person=row["person"],
        service=row["service"],
        through={"acted_by": row["acted_by"]} if row["acted_by"] else {},
    )


async def _check_session_has_room(
    connection: Connection, request: RAGRequest | WorkflowRequest, maker: _RunMaker, limits: OpenWorkLimitSettings
) -> None:
    payers: tuple[tuple[TokenPayer, str | None, int | None], ...] = (
        ("person", maker.person, limits.open_runs_per_person),
        ("service", maker.service, limits.open_runs_per_service),
        ("tenant", "", limits.open_runs_per_tenant),
    )
    for kind, name, limit in payers:
        if name is None or limit is None:
            continue
        count = await count_open_work(connection, request.tenant_id, kind, name)
        if count >= limit:
            why = f"{kind} {name or request.tenant_id} has {count} open runs, {limit} are allowed"
            if not request.schedule_id:
                # It does not wait: its parent is open as long as it does.
                message = f"run {request.run_id} can't be started: {why} (FLOTILLA_OPEN_RUNS_PER_{kind.upper()})"
                raise ApplicationError(message, type="TooManyRuns", non_retryable=True)
            raise RetryLater(f"schedule {request.schedule_id}: {why}")


async def _is_session_busy(connection: Connection, tenant_id: str, session_id: str) -> bool:
    await get_session(connection, tenant_id, session_id, lock=True)
    return bool(await connection.fetchval(_SELECT_IS_SESSION_BUSY, tenant_id, session_id))


async def _insert_run(
    connection: Connection,
    request: RAGRequest | WorkflowRequest,
    maker: _RunMaker,
    workflow_id: str,
    *,
    waits: bool = False,
) -> str:
    query, workflow = (request.query, QUESTION) if isinstance(request, RAGRequest) else ("", request.workflow)
    source = workflow_source(workflow)
    if waits:
        by: JsonObject = {"by": request.user_id, **maker.through}
        events = [run_queued_event(request.run_id, "enqueue", by, source)]
    else:
        events = run_opening_events(request, source, through=maker.through)
    appended = await append(connection, request.tenant_id, request.session_id, events)
    stored = await seal_columns(
        connection,
        request.tenant_id,
        request.session_id,
        RUNS,
        request.run_id,
        query=query,
        request=to_json(request).decode(),
    )
    live_key: str = await connection.fetchval(
        _INSERT_RUN,
        request.tenant_id,
        request.run_id,
        request.session_id,
        request.user_id,
        workflow_id,
        stored["query"],
        stored["request"],
        workflow,
        appended.first_seq,
        "queued" if waits else "running",
        "enqueue" if waits else None,
        request.schedule_id or None,
        maker.metadata,
        maker.acted_by,
        maker.person,
        maker.service,
        _parent_run_id(request) or None,
    )
    return live_key


def run_closed_error(run_id: str, status: str) -> ApplicationError:
    """Return what ends the workflow of a run that it may not work on."""
    how = "waits for its turn" if status == "queued" else f"has ended: {status}"
    return ApplicationError(f"run {run_id} {how}", type=RUN_CLOSED, non_retryable=True)


def _schedule_over_error(request: RAGRequest | WorkflowRequest, why: str) -> ApplicationError:
    return ApplicationError(f"schedule {request.schedule_id} {why}", type="ScheduleOver", non_retryable=True)
