"""What people are asked to decide before a run continues."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flotilla.contracts.envelope import from_json
from flotilla.encryption.tables import APPROVALS
from flotilla.postgres import Pool, open_rows, tenant_transaction
from gateway.schemas.runs import Run

MOST = 20
"""How many are named at once."""
_SELECT_PENDING_APPROVALS = f"""
SELECT approval_id, session_id, action, args, deadline_at FROM flotilla.approvals
WHERE tenant_id = $1 AND run_id = $2 AND status = 'pending' ORDER BY created_at, approval_id LIMIT {MOST}
"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """An action that waits."""

    approval_id: str
    action: str
    args: Mapping[str, Any]
    deadline_at: datetime


async def list_pending_approvals(pool: Pool, tenant_id: str, run: Run) -> list[PendingApproval]:
    """Return them, oldest first, at most 20; none if the run does not wait."""
    if run.status != "interrupted":
        return []
    async with tenant_transaction(pool, tenant_id) as connection:
        found = await connection.fetch(_SELECT_PENDING_APPROVALS, tenant_id, run.run_id)
        rows = await open_rows(connection, tenant_id, APPROVALS, found)
    return [
        PendingApproval(row["approval_id"], row["action"], from_json(row["args"], dict), row["deadline_at"])
        for row in rows
    ]
