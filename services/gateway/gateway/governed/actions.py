"""The rows of `flotilla.actions` as the gateway reads and writes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from flotilla.actions.arguments import load_action_argument_types, normalize_action_args, to_canonical_numbers
from flotilla.approvals.events import action_submitted_event
from flotilla.approvals.policy import ApprovalPolicy
from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import no_such
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import APPROVAL_WORKFLOW, action_workflow_id
from flotilla.contracts.requests import ActionRequest
from flotilla.encryption.tables import ACTIONS
from flotilla.eventstore.sessions import SessionAccess, ensure_session
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_row, open_rows, seal_columns, tenant_transaction
from flotilla.telemetry import current_traceparent
from gateway.auth.issuers import key_issuers_of_requester
from gateway.auth.principal import Principal
from gateway.cancelling import record_cancel_request
from gateway.idempotency import IdempotencyClaim
from gateway.names import SOURCE
from gateway.schemas.governed import Action
from gateway.temporal import WorkflowStart

_INSERT_ACTIONS = """
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, request, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10::jsonb, $11)
"""
_SELECT_ACTIONS = """
SELECT a.action_id, a.session_id, a.workflow_id, a.status, coalesce(p.risk_level, a.risk_level) AS risk_level,
    a.action, a.description, coalesce(p.args, a.args) AS args, a.requested_by,
    nullif(a.request ->> 'on_behalf_of', '') AS on_behalf_of, a.current_step, a.approval_status, a.result, a.error,
    p.content_hash, coalesce(p.votes, '[]') AS votes, p.deadline_at, a.created_at,
    CASE WHEN a.status <> 'approved' THEN a.finished_at END AS finished_at
FROM flotilla.actions AS a
LEFT JOIN flotilla.approvals AS p ON p.tenant_id = a.tenant_id AND p.approval_id = a.action_id
WHERE a.tenant_id = $1
"""
_GET = f"{_SELECT_ACTIONS} AND a.action_id = $2"
# A page, newest first; $4 and $5 are the last row of the page before.
_LIST = f"""
{_SELECT_ACTIONS} AND ($2::text IS NULL OR a.status = $2)
  AND ($4::timestamptz IS NULL OR (a.created_at, a.action_id) < ($4, $5))
ORDER BY a.created_at DESC, a.action_id DESC LIMIT $3
"""
_SELECT_REQUEST_ACTIONS = (
    "SELECT action_id, session_id, request FROM flotilla.actions WHERE tenant_id = $1 AND action_id = $2"
)
_JSON = ("args", "result", "error", "votes")


@dataclass(frozen=True, slots=True)
class SubmittedAction:
    """An action, and how to start its workflow; None when an earlier, equal request did."""

    action: Action
    start: WorkflowStart | None


async def store_submitted_action(
    pool: Pool, policy: ApprovalPolicy, request: ActionRequest, claim: IdempotencyClaim, access: SessionAccess
) -> SubmittedAction:
    """Commits session (if it is new, with `access`), action and first event together.

    Raises:
        Invalid: the arguments are not what the action takes.
        IdempotencyConflict: the key was used for another request.
    """
    request = replace(request, args=normalize_args_if_known(request.action, request.args))
    tenant_id = request.tenant_id
    risk_level = policy.assess_risk(request.action, request.args, request.risk_level).risk_level
    async with tenant_transaction(pool, tenant_id) as connection:
        request = replace(
            request, requested_through=await key_issuers_of_requester(connection, claim.principal, request.requested_by)
        )
        earlier = await claim.take(connection, request.action_id)
        if earlier is None:
            await _insert(connection, request, risk_level, access, claim.principal.subject)
        action = await _get(connection, tenant_id, earlier or request.action_id)
    start = WorkflowStart(APPROVAL_WORKFLOW, action.workflow_id, request)
    return SubmittedAction(action, None if earlier else start)


def normalize_args_if_known(action: str, args: JsonObject) -> JsonObject:
    """Return `args` as they will be executed, as far as this process knows what `action` takes.

    Raises:
        Invalid: they are not what the action takes, or have a number that would not be shown as it is.
    """
    return (
        normalize_action_args(action, args)
        if action in load_action_argument_types()
        else cast("JsonObject", to_canonical_numbers(args))
    )


async def _insert(
    connection: Connection, request: ActionRequest, risk_level: str, access: SessionAccess, user_id: str
) -> None:
    await ensure_session(connection, request.tenant_id, request.session_id, user_id, access)
    stored = await seal_columns(
        connection,
        request.tenant_id,
        request.session_id,
        ACTIONS,
        request.action_id,
        description=request.description,
        args=to_json(request.args).decode(),
        request=to_json(request).decode(),
    )
    await connection.execute(
        _INSERT_ACTIONS,
        request.tenant_id,
        request.action_id,
        request.session_id,
        action_workflow_id(request.action_id),
        request.action,
        stored["description"],
        stored["args"],
        risk_level,
        request.requested_by,
        stored["request"],
        current_traceparent(),
    )
    submitted = action_submitted_event(request, risk_level, SOURCE)
    await append(connection, request.tenant_id, request.session_id, [submitted])


async def get_action(pool: Pool, tenant_id: str, action_id: str) -> Action:
    """One action.

    Raises:
        NotFound: the tenant has no such action.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        return await _get(connection, tenant_id, action_id)


async def record_action_cancel_request(pool: Pool, action: Action, caller: Principal) -> WorkflowStart:
    """Record who called the action off; return how its workflow is started, in case it never was."""
    async with tenant_transaction(pool, caller.tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_REQUEST_ACTIONS, caller.tenant_id, action.action_id)
        stored = (await open_row(connection, caller.tenant_id, ACTIONS, row or {}))["request"]
        await record_cancel_request(connection, caller, action.session_id, "action", action.action_id)
    return WorkflowStart(APPROVAL_WORKFLOW, action.workflow_id, from_json(stored, ActionRequest))


async def list_actions(
    pool: Pool, tenant_id: str, *, status: str | None, limit: int, before: tuple[datetime | None, str | None]
) -> list[dict[str, Any]]:
    """Rows of a page, newest first."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_LIST, tenant_id, status, limit, *before)
        return await open_rows(connection, tenant_id, ACTIONS, rows)


def action_from_row(row: Mapping[str, Any]) -> Action:
    """A row as clients see it."""
    parsed: dict[str, Any] = {name: json.loads(row[name]) if row[name] is not None else None for name in _JSON}
    return Action.model_validate({**dict(row), **parsed})


async def _get(connection: Connection, tenant_id: str, action_id: str) -> Action:
    row = await connection.fetchrow(_GET, tenant_id, action_id)
    if row is None:
        raise no_such("action", action_id)
    return action_from_row(await open_row(connection, tenant_id, ACTIONS, row))
