"""Governed calls of agents' tools, from their approval to what the tool returned."""

import json
from collections.abc import Mapping
from typing import Any

from temporalio import activity

from flotilla.approvals.events import make_action_event
from flotilla.contracts.envelope import to_json
from flotilla.contracts.json_types import JsonValue
from flotilla.encryption.tables import ACTIONS, TOOL_CALLS
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_rows, seal_columns, tenant_transaction
from flotilla.workflows.calls.delegation import SETTLE_CALLS, EndedTaskReference

# The task's approved calls with the last start under each approval.
_SELECT_APPROVED_CALLS = """
SELECT a.action_id, a.session_id, c.outcome, c.result, c.error, c.call_id,
    EXISTS (SELECT 1 FROM flotilla_ops.agents AS g WHERE g.name = split_part(a.action, '.', 1)) AS is_ours,
    (SELECT t.status = 'done' FROM flotilla.agent_tasks AS t
     WHERE t.tenant_id = a.tenant_id AND t.task_id = a.request ->> 'task_id') AS is_done
FROM flotilla.actions AS a
LEFT JOIN LATERAL (
    SELECT outcome, result, error, call_id FROM flotilla.tool_calls AS c
    WHERE c.tenant_id = a.tenant_id AND c.task_id = a.request ->> 'task_id' AND c.approval_id = a.action_id
    ORDER BY (outcome IS NOT DISTINCT FROM 'returned') DESC, start_no DESC LIMIT 1
) AS c ON true
WHERE a.tenant_id = $1 AND a.status = 'approved'
  AND (split_part(a.request ->> 'task_id', '~', 1) = $2 OR a.request ->> 'run_id' = $3)
ORDER BY a.action_id
"""
_FINISH_CALL_ACTION = """
UPDATE flotilla.actions SET status = $3, result = $4, error = $5, finished_at = now()
WHERE tenant_id = $1 AND action_id = $2 AND status = 'approved' RETURNING action_id
"""
CALL_NEVER_MADE_MESSAGE = "the task ended, and its agent never made this call"
CALL_WITHOUT_ANSWER_MESSAGE = "the tool was begun and gave no answer; it may have had its effect"


class GatedCallActivities:
    """Makes the state of an approved call follow its tool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @activity.defn(name=SETTLE_CALLS)
    async def settle_calls(self, ended: EndedTaskReference) -> None:
        """Complete each approved call whose tool returned, and fail the others of a task that is over.

        Safe to repeat. Where an agent is not built with the library, its word counts: a task that it has done has made
        its calls.
        """
        async with tenant_transaction(self._pool, ended.tenant_id) as connection:
            found = await connection.fetch(
                _SELECT_APPROVED_CALLS, ended.tenant_id, ended.task_id or None, ended.run_id or None
            )
            for row in await open_rows(connection, ended.tenant_id, TOOL_CALLS, found):
                if row["outcome"] == "returned":
                    await _finish_call_action(
                        connection, ended.tenant_id, row, "completed", result=json.loads(row["result"])
                    )
                elif not ended.is_over:
                    continue
                elif row["is_done"] and not row["is_ours"]:
                    await _finish_call_action(connection, ended.tenant_id, row, "completed")
                else:
                    await _finish_call_action(connection, ended.tenant_id, row, "failed", error=_why_call_failed(row))


def _why_call_failed(row: Mapping[str, Any]) -> str:
    if row["call_id"] is None:
        return CALL_NEVER_MADE_MESSAGE
    return (
        str(row["error"])
        if row["outcome"] == "refused"
        else f"{CALL_WITHOUT_ANSWER_MESSAGE}: {row['error'] or 'its process ended'}"
    )


async def _finish_call_action(
    connection: Connection,
    tenant_id: str,
    row: Mapping[str, Any],
    status: str,
    *,
    result: JsonValue = None,
    error: str | None = None,
) -> None:
    stored = await seal_columns(
        connection,
        tenant_id,
        row["session_id"],
        ACTIONS,
        row["action_id"],
        result=to_json(result).decode(),
        error=None if error is None else to_json({"message": error}).decode(),
    )
    settled = await connection.fetchval(
        _FINISH_CALL_ACTION, tenant_id, row["action_id"], status, stored["result"], stored["error"]
    )
    if settled is not None:
        details = {"status": status, "error": error, "call_id": row["call_id"]}
        event = make_action_event(f"action_{status}", row["action_id"], details)
        await append(connection, tenant_id, row["session_id"], [event])
