"""The inbox: the rows of `flotilla.approvals`."""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from flotilla.actions.arguments import load_action_argument_types
from flotilla.approvals.policy import ApprovalPolicy
from flotilla.contracts.approvals import ApprovalRequirement, SignatureRule, canonical_content
from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import no_such
from flotilla.contracts.json_types import JsonObject
from flotilla.encryption.tables import APPROVALS
from flotilla.postgres import Connection, Pool, open_row, open_rows, tenant_transaction
from gateway.schemas.governed import Approval, Outcome

_COLUMNS = """approval_id, session_id, workflow_id, run_id, task_id, action, description, args, content_hash,
    risk_level, reasons, requested_by, on_behalf_of, requirement, policy_version, quorum, status, votes, created_at,
    deadline_at, reminder_at, decided_at"""
# What came of it, for those who may see that; nothing while it is not decided.
_OUTCOME = "LEFT JOIN LATERAL flotilla.outcome_of(approval_id) AS o ON status <> 'pending'"
_SELECT_APPROVALS = f"""
SELECT {_COLUMNS}, action_status, action_result, action_error, action_finished_at FROM flotilla.approvals {_OUTCOME}
WHERE tenant_id = $1 AND approval_id = $2
"""  # noqa: S608 - constants
# A page, newest first; $4 and $5 are the last row of the page before.
_LIST_APPROVALS = f"""
SELECT {_COLUMNS}, action_status, NULL AS action_result, NULL AS action_error, action_finished_at
FROM flotilla.approvals {_OUTCOME}
WHERE tenant_id = $1 AND ($2::text IS NULL OR status = $2)
  AND ($4::timestamptz IS NULL OR (created_at, approval_id) < ($4, $5))
ORDER BY created_at DESC, approval_id DESC LIMIT $3
"""  # noqa: S608
# The same, by who runs out of time first; $4 and $5 are the last row's deadline and id.
_BY_DEADLINE = f"""
SELECT {_COLUMNS}, action_status, NULL AS action_result, NULL AS action_error, action_finished_at
FROM flotilla.approvals {_OUTCOME}
WHERE tenant_id = $1 AND ($2::text IS NULL OR status = $2)
  AND ($4::timestamptz IS NULL OR (deadline_at, approval_id) > ($4, $5))
ORDER BY deadline_at, approval_id LIMIT $3
"""  # noqa: S608
_COUNT_APPROVALS = """
SELECT count(*) FROM (
    SELECT FROM flotilla.approvals WHERE tenant_id = $1 AND status = 'pending' LIMIT 10001) AS pending
"""


async def get_approval(connection: Connection, policy: ApprovalPolicy, tenant_id: str, approval_id: str) -> Approval:
    """One approval.

    Raises:
        NotFound: the tenant has no such approval.
    """
    row = await connection.fetchrow(_SELECT_APPROVALS, tenant_id, approval_id)
    if row is None:
        raise no_such("approval", approval_id)
    return approval_from_row(await open_row(connection, tenant_id, APPROVALS, row), policy)


async def list_approvals(
    pool: Pool,
    tenant_id: str,
    *,
    status: str | None,
    by_deadline: bool,
    limit: int,
    after: tuple[datetime | None, str | None],
) -> list[dict[str, Any]]:
    """Rows of a page: newest first, or by deadline, earliest first."""
    statement = _BY_DEADLINE if by_deadline else _LIST_APPROVALS
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(statement, tenant_id, status, limit, *after)
        return await open_rows(connection, tenant_id, APPROVALS, rows)


async def count_pending_approvals(pool: Pool, tenant_id: str) -> int:
    """Approvals that wait for a decision, up to 10,001."""
    async with tenant_transaction(pool, tenant_id) as connection:
        return int(await connection.fetchval(_COUNT_APPROVALS, tenant_id))


@cache
def action_args_schema(action: str) -> JsonObject | None:
    """What the action takes; None for one that only the worker, or only an agent, knows."""
    kind = load_action_argument_types().get(action)
    return TypeAdapter(kind).json_schema() if kind is not None else None


def approval_from_row(row: Mapping[str, Any], policy: ApprovalPolicy) -> Approval:
    """A row as people see it."""
    requirement = from_json(row["requirement"], ApprovalRequirement)
    args = json.loads(row["args"])
    return Approval.model_validate(
        {
            **dict(row),
            "args": args,
            "content": canonical_content(row["action"], args),
            "votes": json.loads(row["votes"]),
            "outcome": _outcome(row),
            "signature": _signature(row, args, policy),
            "signing_policy_version": policy.version,
            "roles": requirement.roles,
            "editable_args": requirement.editable_args,
            "reason_required": requirement.reason_required,
            "exclude_requester": requirement.exclude_requester,
            "args_schema": action_args_schema(row["action"]) if row["task_id"] is None else None,
        }
    )


def _outcome(row: Mapping[str, Any]) -> Outcome | None:
    if row["action_status"] is None:
        return None
    result, error = (
        json.loads(row[name]) if row[name] is not None else None for name in ("action_result", "action_error")
    )
    return Outcome(status=row["action_status"], result=result, error=error, finished_at=row["action_finished_at"])


def _signature(row: Mapping[str, Any], args: JsonObject, policy: ApprovalPolicy) -> SignatureRule:
    """What the policy in force asks for: the executor asks for that, not for what was in force at the request."""
    return policy.approval_requirement(
        row["action"], policy.assess_risk(row["action"], args, row["risk_level"])
    ).signature
