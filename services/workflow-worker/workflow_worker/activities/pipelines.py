"""The rows of `flotilla.pipelines`: the gateway opens them, the worker closes them once their workflow is over."""

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus

from flotilla.contracts.envelope import to_json
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.requests import RunStatus
from flotilla.contracts.session_events import ErrorRaised
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from workflow_worker.activities.signatures.pipelines import (
    BEGIN_PIPELINE,
    FINISH_PIPELINE,
    BegunPipeline,
    FinishedPipeline,
    PipelineReference,
)
from workflow_worker.delegates import load_agent_time_limits
from workflow_worker.routes import routed_versions

SOURCE = "/workflows/PipelineWorkflow"
_BEGIN = """
UPDATE flotilla.pipelines SET status = 'running' WHERE tenant_id = $1 AND task_id = $2 AND status = 'pending'
"""
# Ends the pipeline, unless it has ended, with the reason; as the hop that failed told it, if that is the reason.
_FINISH = """
UPDATE flotilla.pipelines AS p SET status = $3, finished_at = now(),
    error = CASE $3 WHEN 'success' THEN NULL ELSE coalesce(
        (SELECT t.failure FROM flotilla.agent_tasks AS t
         WHERE t.tenant_id = p.tenant_id AND (t.task_id = p.task_id OR t.task_id LIKE p.task_id || '~%')
           AND t.failure ->> 'type' = $4::jsonb ->> 'type' ORDER BY t.created_at DESC LIMIT 1),
        $4::jsonb) END
WHERE p.tenant_id = $1 AND p.task_id = $2 AND p.finished_at IS NULL
RETURNING p.session_id
"""
_STATUSES: dict[WorkflowExecutionStatus | None, RunStatus] = {
    WorkflowExecutionStatus.COMPLETED: "success",
    WorkflowExecutionStatus.TERMINATED: "cancelled",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TIMED_OUT: "timeout",
}


class PipelineActivities:
    """The activities that keep `flotilla.pipelines`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @activity.defn(name=BEGIN_PIPELINE)
    async def begin_pipeline(self, key: PipelineReference) -> BegunPipeline:
        """Mark the pipeline as running. Idempotency key: (tenant, task id)."""
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            await connection.execute(_BEGIN, key.tenant_id, key.task_id)
            return BegunPipeline(limits_s=await load_agent_time_limits(connection))

    @activity.defn(name=FINISH_PIPELINE)
    async def finish_pipeline(self, finished: FinishedPipeline) -> None:
        """End the row and record it in the session's log; do nothing if it has ended."""
        ended = ErrorRaised(type="WorkflowEnded", message=f"its workflow ended: {finished.status}", where="pipeline")
        await self._finish(finished.key, finished.status, finished.error or ended)

    async def close_lost_pipeline(
        self, key: PipelineReference, ended: WorkflowExecutionStatus | None, why: ErrorRaised
    ) -> None:
        """End the row of a pipeline whose workflow is over."""
        await self._finish(key, _STATUSES.get(ended, "error"), why)

    async def _finish(self, key: PipelineReference, status: RunStatus, error: ErrorRaised) -> None:
        details: dict[str, JsonValue] = {"task_id": key.task_id, "status": status}
        if status != "success":
            details["error"] = {"type": error.type, "message": error.message}
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            session_id = await connection.fetchval(_FINISH, key.tenant_id, key.task_id, status, to_json(error).decode())
            if session_id is not None:
                if versions := (await routed_versions(connection, key.tenant_id, [key.task_id])).get(key.task_id):
                    details["versions"] = versions
                finished = state_change("task_finished", details, SOURCE)
                await append(connection, key.tenant_id, session_id, [finished])
