"""The rows of `flotilla.runs` as the gateway reads and writes them."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, NotFound, RunInProgress, no_such
from flotilla.contracts.event_builders import run_finished_event, run_opening_events
from flotilla.contracts.names import QUESTION, RAG_WORKFLOW, run_stream, run_workflow_id
from flotilla.contracts.notices import Notify
from flotilla.contracts.requests import IfActive, RAGRequest, RunStatus, WorkflowRequest
from flotilla.encryption.tables import RUNS
from flotilla.eventstore.sessions import SessionAccess, ensure_session, get_session, session_kind_of_request
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_row, open_rows, seal_columns, tenant_transaction
from flotilla.telemetry import current_traceparent
from gateway.auth.issuers import key_issuers_of_requester
from gateway.auth.principal import Principal
from gateway.cancelling import record_cancel_request
from gateway.idempotency import IdempotencyClaim
from gateway.names import SOURCE
from gateway.open_work import OpenWorkLimits
from gateway.runs.queue import find_runs_ahead, run_queued_events
from gateway.schemas.runs import Run
from gateway.temporal import WorkflowStart

RUN_COLUMNS = """run_id, session_id, workflow_id, workflow, user_id, acted_by, query, request -> 'input' AS input,
    metadata, status, if_active, schedule_id, parent_run_id, request #>> '{replay,of_run}' AS replay_of, result, output,
    error, created_at, started_at, finished_at"""
_JSON = ("input", "metadata", "result", "output", "error")
# Nothing happens while another run of the session is active or waits, unless this one waits, too.
_INSERT_RUNS = f"""
INSERT INTO flotilla.runs
    (tenant_id, run_id, session_id, user_id, workflow_id, query, request, traceparent, first_seq, workflow, metadata,
     status, if_active, notify)
SELECT $1::text, $2, $3::text, $4, $5, $6, $7::jsonb, $8, $9, $10, $11::jsonb, $12::text, $13, $14::jsonb
WHERE $12 = 'queued' OR NOT EXISTS (
    SELECT FROM flotilla.runs WHERE tenant_id = $1 AND session_id = $3 AND status = 'queued')
ON CONFLICT (tenant_id, session_id) WHERE status IN ('pending', 'running', 'interrupted') DO NOTHING
RETURNING {RUN_COLUMNS}
"""  # noqa: S608 - constants
_SELECT_RUNS = f"SELECT {RUN_COLUMNS} FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"  # noqa: S608
# A page, newest first; $5 and $6 are the last row of the page before.
_LIST_RUNS = f"""
SELECT {RUN_COLUMNS} FROM flotilla.runs
WHERE tenant_id = $1 AND ($2::text IS NULL OR session_id = $2) AND ($3::text IS NULL OR status = $3)
  AND ($5::timestamptz IS NULL OR (created_at, run_id) < ($5, $6)) AND ($7::text IS NULL OR user_id = $7)
  AND ($8::text IS NULL OR workflow = $8) AND ($9::jsonb IS NULL OR metadata @> $9)
  AND ($10::timestamptz IS NULL OR created_at >= $10) AND ($11::timestamptz IS NULL OR created_at < $11)
  AND ($12::text IS NULL OR schedule_id = $12) AND ($13::text IS NULL OR parent_run_id = $13)
ORDER BY created_at DESC, run_id DESC LIMIT $4
"""  # noqa: S608
_SELECT_FOLLOWED_RUNS = (
    "SELECT session_id, status, first_seq, live_key FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
)
# Ends a run that no workflow works on; nothing when it has ended or begun.
_CANCEL_RUNS = """
UPDATE flotilla.runs SET status = 'cancelled', finished_at = now()
WHERE tenant_id = $1 AND run_id = $2 AND status = $3
"""


Note: TypeAlias = Callable[[Connection, str], Awaitable[None]]
"""What else belongs into the transaction that starts the run of this id."""


@dataclass(frozen=True, slots=True)
class FollowedRun:
    """What is needed to follow a run."""

    run_id: str
    session_id: str
    status: RunStatus
    first_seq: int
    """Of the run's own events; 1 where it is not known."""
    live: str
    """The Redis stream of its live tokens and steps."""


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run, and what its workflow needs to begin."""

    run: Run
    start: WorkflowStart | None = None
    """None where it waits, or was started by an earlier, equal request."""
    interrupts: str | None = None
    """The workflow of the run that it asks to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs a listing has."""

    session_id: str | None = None
    status: RunStatus | None = None
    user_id: str | None = None
    workflow: str | None = None
    schedule_id: str | None = None
    parent_run_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    """This moment included."""
    created_before: datetime | None = None


async def store_run(
    pool: Pool,
    request: RAGRequest | WorkflowRequest,
    claim: IdempotencyClaim,
    access: SessionAccess,
    open_work: OpenWorkLimits,
    *,
    metadata: Mapping[str, str] | None = None,
    if_active: IfActive = "reject",
    notify: Notify | None = None,
    note: Note | None = None,
) -> StartedRun:
    """Commits session (if it is new, with `access`), run, idempotency key and first events together, and `note`.

    Raises:
        NotFound, Forbidden: the session is somebody else's, to whom the caller is nobody, or a reader.
        RunInProgress: another run of the session is active, and `if_active` is `reject`.
        TooMany: as many runs are open as may be, or wait in the session, or the day's tokens are used up.
        IdempotencyConflict: the key was used for another request.
    """
    tenant_id, run_id, session_id = request.tenant_id, request.run_id, request.session_id
    caller = claim.principal
    async with tenant_transaction(pool, tenant_id) as connection:
        earlier = await claim.take(connection, run_id)
        if earlier is not None:
            return StartedRun(await load_run(connection, tenant_id, earlier))
        await open_work.check_may_start(connection, caller)
        await ensure_session(
            connection, tenant_id, session_id, request.user_id, access, kind=session_kind_of_request(request)
        )
        if isinstance(request, WorkflowRequest):
            through = await key_issuers_of_requester(connection, caller, request.user_id)
            request = replace(request, requested_through=through)
        ahead = None if if_active == "reject" else await find_runs_ahead(connection, tenant_id, session_id)
        if ahead is None:
            events = run_opening_events(request, SOURCE, through=caller.acted_by_attribute)
        else:
            events = run_queued_events(run_id, if_active, ahead, caller)
        # Takes the session's row lock, so that of two requests at once the second one meets the first one's run.
        appended = await append(connection, tenant_id, session_id, events)
        waits = None if ahead is None else if_active
        row = await _add(connection, request, appended.first_seq, metadata=metadata or {}, waits=waits, notify=notify)
        run = run_from_row(await open_row(connection, tenant_id, RUNS, row))
        if note is not None:
            await note(connection, run_id)
    if ahead is None:
        return StartedRun(run, _start_of(request))
    return StartedRun(run, interrupts=None if if_active == "enqueue" else ahead.workflow_id)


async def _add(
    connection: Connection,
    request: RAGRequest | WorkflowRequest,
    first_seq: int,
    *,
    metadata: Mapping[str, str],
    waits: IfActive | None,
    notify: Notify | None,
) -> asyncpg.Record:
    query, workflow = (request.query, QUESTION) if isinstance(request, RAGRequest) else ("", request.workflow)
    stored = await seal_columns(
        connection,
        request.tenant_id,
        request.session_id,
        RUNS,
        request.run_id,
        query=query,
        request=to_json(request).decode(),
    )
    row = await connection.fetchrow(
        _INSERT_RUNS,
        request.tenant_id,
        request.run_id,
        request.session_id,
        request.user_id,
        run_workflow_id(request.run_id),
        stored["query"],
        stored["request"],
        current_traceparent(),
        first_seq,
        workflow,
        to_json(metadata).decode(),
        "queued" if waits else "pending",
        waits,
        None if notify is None else to_json(notify).decode(),
    )
    if row is None:
        raise RunInProgress(
            f"session {request.session_id} has an active run: wait for it, cancel it, use another session, or say with "
            "if_active what becomes of both"
        )
    return row


def _start_of(request: RAGRequest | WorkflowRequest) -> WorkflowStart:
    workflow_id = run_workflow_id(request.run_id)
    if isinstance(request, RAGRequest):
        return WorkflowStart(RAG_WORKFLOW, workflow_id, request)
    return WorkflowStart(request.workflow, workflow_id, request, request.task_queue)


async def get_run(pool: Pool, tenant_id: str, run_id: str) -> Run:
    """One run.

    Raises:
        NotFound: the tenant has no such run.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        return await load_run(connection, tenant_id, run_id)


async def load_run(connection: Connection, tenant_id: str, run_id: str) -> Run:
    """`get_run` in the caller's transaction."""
    row = await connection.fetchrow(_SELECT_RUNS, tenant_id, run_id)
    if row is None:
        raise run_not_found(run_id)
    return run_from_row(await open_row(connection, tenant_id, RUNS, row))


async def list_runs(
    connection: Connection,
    tenant_id: str,
    only: RunFilter,
    *,
    limit: int,
    before: tuple[datetime | None, str | None],
) -> list[dict[str, Any]]:
    """Rows of a page, newest first."""
    rows = await connection.fetch(
        _LIST_RUNS,
        tenant_id,
        only.session_id,
        only.status,
        limit,
        *before,
        only.user_id,
        only.workflow,
        to_json(only.metadata).decode() if only.metadata else None,
        only.created_after,
        only.created_before,
        only.schedule_id,
        only.parent_run_id,
    )
    return await open_rows(connection, tenant_id, RUNS, rows)


async def load_followed_run(pool: Pool, tenant_id: str, run_id: str) -> FollowedRun:
    """Where the run's events are, and how it stands.

    Raises:
        NotFound: the tenant has no such run.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_FOLLOWED_RUNS, tenant_id, run_id)
    if row is None:
        raise run_not_found(run_id)
    return FollowedRun(
        run_id, row["session_id"], row["status"], row["first_seq"] or 1, run_stream(run_id, row["live_key"])
    )


async def record_run_cancel_request(pool: Pool, run: Run, principal: Principal) -> None:
    """Records who asked for the run to be cancelled.

    Raises:
        Conflict: the run is over, and not because it was cancelled.
    """
    async with tenant_transaction(pool, principal.tenant_id) as connection:
        await record_cancel_request(connection, principal, run.session_id, "run", run.run_id)


async def cancel_unstarted(pool: Pool, run: Run, tenant_id: str) -> bool:
    """Ends a run whose workflow never began; False when it has begun or ended meanwhile."""
    ended = run_finished_event(run.run_id, "cancelled", SOURCE)
    async with tenant_transaction(pool, tenant_id) as connection:
        if run.status == "queued":  # as who opens it: first the session's lock, then the run's
            await get_session(connection, tenant_id, run.session_id, lock=True)
        if await connection.execute(_CANCEL_RUNS, tenant_id, run.run_id, run.status) != "UPDATE 1":
            return False
        await append(connection, tenant_id, run.session_id, [ended])
    return True


def run_from_row(row: Mapping[str, Any]) -> Run:
    """A row, decrypted, as clients see it."""
    parsed = {name: json.loads(row[name]) if row[name] else None for name in _JSON}
    return Run.model_validate({**dict(row), **parsed})


def run_not_found(run_id: str) -> NotFound:
    """Says that the tenant has no such run."""
    return no_such("run", run_id)


def over(run: Run) -> Conflict:
    """Says that nothing can be cancelled any more."""
    return Conflict(f"run {run.run_id} is over: {run.status}")
