"""The rows of `flotilla.pipelines`: the gateway opens them, the leader closes them once their workflow is over."""

from temporalio.client import WorkflowExecutionStatus

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.session_events import AgentStateEvent, StateChange
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction

SOURCE = "/workflows/PipelineWorkflow"
# Ends the pipeline, unless it has ended, with the failure of the hop that failed.
_FINISH = """
UPDATE flotilla.pipelines AS p SET status = $3, finished_at = now(),
    error = CASE $3 WHEN 'success' THEN NULL ELSE coalesce(
        (SELECT t.failure FROM flotilla.agent_tasks AS t
         WHERE t.tenant_id = p.tenant_id AND (t.task_id = p.task_id OR t.task_id LIKE p.task_id || '~%')
           AND t.failure IS NOT NULL ORDER BY t.created_at DESC LIMIT 1),
        jsonb_build_object('type', 'WorkflowEnded', 'message', 'its workflow ended: ' || $3)) END
WHERE p.tenant_id = $1 AND p.task_id = $2 AND p.finished_at IS NULL
RETURNING p.session_id
"""
_STATUSES = {
    WorkflowExecutionStatus.COMPLETED: "success",
    WorkflowExecutionStatus.TERMINATED: "cancelled",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TIMED_OUT: "timeout",
}


async def close_pipeline(pool: Pool, tenant_id: str, task_id: str, ended: WorkflowExecutionStatus | None) -> None:
    """Ends the row and says so in the session's log. Idempotency key: (tenant, task id)."""
    status = _STATUSES.get(ended, "error") if ended else "error"
    data = StateChange(change="task_finished", details={"task_id": task_id, "status": status})
    async with tenant_transaction(pool, tenant_id) as connection:
        session_id = await connection.fetchval(_FINISH, tenant_id, task_id, status)
        if session_id is not None:
            event = AgentStateEvent(kind="state_change", data=to_builtins(data), source=SOURCE)
            await append(connection, tenant_id, session_id, [event])
