"""The rows of `flotilla.pipelines`."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import no_such
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import PIPELINE_WORKFLOW, task_workflow_id
from flotilla.contracts.requests import PipelineRequest
from flotilla.contracts.tasks import last_hop_id
from flotilla.encryption import Row
from flotilla.encryption.tables import AGENT_TASKS, PIPELINES
from flotilla.eventstore.sessions import SessionAccess, ensure_session
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_row, open_rows, seal_columns, tenant_transaction
from flotilla.telemetry import current_traceparent
from gateway.auth.principal import Principal
from gateway.cancelling import record_cancel_request
from gateway.idempotency import IdempotencyClaim
from gateway.names import SOURCE
from gateway.open_work import OpenWorkLimits
from gateway.schemas.pipelines import Task
from gateway.temporal import WorkflowStart

_INSERT_PIPELINES = """
INSERT INTO flotilla.pipelines
    (tenant_id, task_id, session_id, user_id, workflow_id, steps, request, result_task_id, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9)
"""
# The last hop's answer says that the pipeline is done before the worker's leader closes its row.
_SELECT_APPROVALS = """
SELECT p.task_id, p.session_id, p.workflow_id, p.steps, p.user_id, p.acted_by, p.error, p.created_at, t.result,
    p.result_task_id,
    CASE
        WHEN p.finished_at IS NULL AND t.status = 'done' THEN 'success'
        WHEN p.finished_at IS NULL AND EXISTS (
            SELECT 1 FROM flotilla.approvals AS a
            WHERE a.tenant_id = p.tenant_id AND a.session_id = p.session_id AND a.status = 'pending'
              AND split_part(a.task_id, '~', 1) = p.task_id) THEN 'waiting_for_approval'
        ELSE p.status
    END AS status,
    coalesce(p.finished_at, CASE t.status WHEN 'done' THEN t.finished_at END) AS finished_at
FROM flotilla.pipelines AS p
LEFT JOIN flotilla.agent_tasks AS t ON t.tenant_id = p.tenant_id AND t.task_id = p.result_task_id
WHERE p.tenant_id = $1
"""
_GET = f"{_SELECT_APPROVALS} AND p.task_id = $2"
_RECORDED_END = """
SELECT CASE WHEN finished_at IS NOT NULL THEN status END AS status FROM flotilla.pipelines
WHERE tenant_id = $1 AND task_id = $2
"""
# A page, newest first; $3 and $4 are the last row of the page before.
_LIST = f"""
SELECT * FROM ({_SELECT_APPROVALS}
    AND ($3::timestamptz IS NULL OR (p.created_at, p.task_id) < ($3, $4)) AND ($5::text IS NULL OR p.session_id = $5)
    AND ($6::text IS NULL OR p.user_id = $6) AND ($7::text IS NULL OR $7 = ANY (p.steps))
    AND ($9::timestamptz IS NULL OR p.created_at >= $9) AND ($10::timestamptz IS NULL OR p.created_at < $10)) AS tasks
WHERE $8::text IS NULL OR status = $8
ORDER BY created_at DESC, task_id DESC LIMIT $2
"""  # noqa: S608 - constants
_SELECT_REQUEST_PIPELINES = (
    "SELECT task_id, session_id, request FROM flotilla.pipelines WHERE tenant_id = $1 AND task_id = $2"
)
_MARK_PIPELINES_RUNNING = """
UPDATE flotilla.pipelines SET status = 'running' WHERE tenant_id = $1 AND task_id = $2 AND status = 'pending'
"""
_RESULTS = replace(AGENT_TASKS, key="result_task_id")


Note: TypeAlias = Callable[[Connection, str], Awaitable[None]]
"""What else belongs into the transaction that starts the task of this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks a listing has."""

    session_id: str | None = None
    user_id: str | None = None
    agent: str | None = None
    """Among its steps."""
    status: str | None = None
    created_after: datetime | None = None
    """This moment included."""
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class SubmittedPipeline:
    """A pipeline, and how to start its workflow; None when an earlier, equal request did."""

    task: Task
    start: WorkflowStart | None


async def store_pipeline(
    pool: Pool,
    request: PipelineRequest,
    claim: IdempotencyClaim,
    access: SessionAccess,
    open_work: OpenWorkLimits,
    *,
    note: Note | None = None,
) -> SubmittedPipeline:
    """Commits session (if it is new, with `access`), pipeline, first event and `note` together.

    Raises:
        TooMany: as many tasks are open as may be, or the day's tokens are used up.
        IdempotencyConflict: the key was used for another request.
    """
    tenant_id = request.tenant_id
    async with tenant_transaction(pool, tenant_id) as connection:
        earlier = await claim.take(connection, request.task_id)
        if earlier is None:
            await open_work.check_may_start(connection, claim.principal)
            await _insert(connection, request, access, claim.principal)
            if note is not None:
                await note(connection, request.task_id)
        task = await _get(connection, tenant_id, earlier or request.task_id)
    return SubmittedPipeline(task, None if earlier else WorkflowStart(PIPELINE_WORKFLOW, task.workflow_id, request))


async def _insert(connection: Connection, request: PipelineRequest, access: SessionAccess, caller: Principal) -> None:
    await ensure_session(connection, request.tenant_id, request.session_id, request.user_id, access)
    stored = await seal_columns(
        connection,
        request.tenant_id,
        request.session_id,
        PIPELINES,
        request.task_id,
        request=to_json(request).decode(),
    )
    await connection.execute(
        _INSERT_PIPELINES,
        request.tenant_id,
        request.task_id,
        request.session_id,
        request.user_id,
        task_workflow_id(request.task_id),
        request.steps,
        stored["request"],
        last_hop_id(request.task_id, len(request.steps) - 1),
        current_traceparent(),
    )
    details: JsonObject = {
        "task_id": request.task_id,
        "steps": list(request.steps),
        "user_id": request.user_id,
        **caller.acted_by_attribute,
    }
    submitted = state_change("task_submitted", details, SOURCE)
    await append(connection, request.tenant_id, request.session_id, [submitted])


async def get_task(pool: Pool, tenant_id: str, task_id: str) -> Task:
    """One pipeline.

    Raises:
        NotFound: the tenant has no such pipeline.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        return await _get(connection, tenant_id, task_id)


async def read_recorded_end(pool: Pool, tenant_id: str, task_id: str) -> str | None:
    """Return how a pipeline ended once its last event is in the session's log, which is later than `get_task` knows it;
    None before.

    Raises:
        NotFound: the tenant has no such pipeline.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow(_RECORDED_END, tenant_id, task_id)
    if row is None:
        raise no_such("task", task_id)
    status: str | None = row["status"]
    return status


async def list_tasks(
    pool: Pool, tenant_id: str, only: TaskFilter, *, limit: int, before: tuple[datetime | None, str | None]
) -> list[dict[str, Any]]:
    """Return the rows of a page, newest first."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(
            _LIST,
            tenant_id,
            limit,
            *before,
            only.session_id,
            only.user_id,
            only.agent,
            only.status,
            only.created_after,
            only.created_before,
        )
        return await _opened(connection, tenant_id, rows)


async def record_task_cancel_request(pool: Pool, task: Task, caller: Principal) -> WorkflowStart:
    """Record who asked for the task to be cancelled; return how its workflow is started, in case it never was."""
    async with tenant_transaction(pool, caller.tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_REQUEST_PIPELINES, caller.tenant_id, task.task_id)
        stored = (await open_row(connection, caller.tenant_id, PIPELINES, row or {}))["request"]
        await record_cancel_request(connection, caller, task.session_id, "task", task.task_id)
    return WorkflowStart(PIPELINE_WORKFLOW, task.workflow_id, from_json(stored, PipelineRequest))


async def mark_running(pool: Pool, tenant_id: str, task_id: str) -> None:
    """Notes that the workflow was started, so that the worker's leader need not."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(_MARK_PIPELINES_RUNNING, tenant_id, task_id)


async def _get(connection: Connection, tenant_id: str, task_id: str) -> Task:
    row = await connection.fetchrow(_GET, tenant_id, task_id)
    if row is None:
        raise no_such("task", task_id)
    [opened] = await _opened(connection, tenant_id, [row])
    return task_from_row(opened)


async def _opened(connection: Connection, tenant_id: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    with_errors = await open_rows(connection, tenant_id, PIPELINES, rows)
    return await open_rows(connection, tenant_id, _RESULTS, with_errors)


def task_from_row(row: Mapping[str, Any]) -> Task:
    """Return a row, decrypted, as clients see it."""
    parsed = {name: json.loads(row[name]) if row[name] is not None else None for name in ("result", "error")}
    shown = {name: value for name, value in row.items() if name != "result_task_id"}
    return Task.model_validate({**shown, **parsed})
