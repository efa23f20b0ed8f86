"""The rows of `flotilla.pipelines`: the gateway opens them, the worker closes them once their workflow is over."""

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus

from flotilla.contracts.envelope import to_json
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.requests import RunStatus
from flotilla.contracts.session_events import ErrorRaised
from flotilla.encryption.tables import AGENT_TASKS, PIPELINES
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_row, seal_columns, tenant_transaction
from workflow_worker.activities.signatures.pipelines import (
    BEGIN_PIPELINE,
    FINISH_PIPELINE,
    BegunPipeline,
    FinishedPipeline,
    PipelineReference,
)
from workflow_worker.delegates import load_agent_time_limits
from workflow_worker.delegations import close_open_hops_of_task
from workflow_worker.routes import load_routed_versions

SOURCE = "/workflows/PipelineWorkflow"
_MARK_PIPELINE_RUNNING = """
UPDATE flotilla.pipelines SET status = 'running' WHERE tenant_id = $1 AND task_id = $2 AND status = 'pending'
"""
# Ends the pipeline, unless it has ended.
_FINISH_PIPELINE = """
UPDATE flotilla.pipelines SET status = $3, finished_at = now()
WHERE tenant_id = $1 AND task_id = $2 AND finished_at IS NULL RETURNING session_id
"""
_STORE_PIPELINE_ERROR = "UPDATE flotilla.pipelines SET error = $3 WHERE tenant_id = $1 AND task_id = $2"
# How the hop that failed with this type of failure told it.
_SELECT_FAILED_TASK = """
SELECT t.task_id, t.session_id, t.failure FROM flotilla.agent_tasks AS t
WHERE t.tenant_id = $1 AND (t.task_id = $2 OR t.task_id LIKE $2 || '~%') AND t.failure ->> 'type' = $3
ORDER BY t.created_at DESC LIMIT 1
"""
_RUN_STATUS_BY_WORKFLOW_STATUS: dict[WorkflowExecutionStatus | None, RunStatus] = {
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
            await connection.execute(_MARK_PIPELINE_RUNNING, key.tenant_id, key.task_id)
            return BegunPipeline(limits_s=await load_agent_time_limits(connection))

    @activity.defn(name=FINISH_PIPELINE)
    async def finish_pipeline(self, finished: FinishedPipeline) -> None:
        """End the row and record it in the session's log; do nothing if it has ended."""
        ended = ErrorRaised(type="WorkflowEnded", message=f"its workflow ended: {finished.status}", where="pipeline")
        await self._finish_row_and_record(finished.key, finished.status, finished.error or ended)

    async def close_lost_pipeline(
        self, key: PipelineReference, ended: WorkflowExecutionStatus | None, why: ErrorRaised
    ) -> None:
        """End the row of a pipeline whose workflow is over."""
        await self._finish_row_and_record(key, _RUN_STATUS_BY_WORKFLOW_STATUS.get(ended, "error"), why)

    async def _finish_row_and_record(self, key: PipelineReference, status: RunStatus, error: ErrorRaised) -> None:
        details: dict[str, JsonValue] = {"task_id": key.task_id, "status": status}
        if status != "success":
            details["error"] = {"type": error.type, "message": error.message}
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            session_id = await connection.fetchval(_FINISH_PIPELINE, key.tenant_id, key.task_id, status)
            if session_id is not None:
                if versions := (await load_routed_versions(connection, key.tenant_id, [key.task_id])).get(key.task_id):
                    details["versions"] = versions
                if status != "success":
                    await _store_pipeline_error(connection, key, session_id, error)
                    await close_open_hops_of_task(connection, key.tenant_id, session_id, key.task_id)
                finished = state_change("task_finished", details, SOURCE)
                await append(connection, key.tenant_id, session_id, [finished])


async def _store_pipeline_error(
    connection: Connection, key: PipelineReference, session_id: str, error: ErrorRaised
) -> None:
    """Store why the pipeline failed: as the hop that failed told it, if that is the reason."""
    told = await connection.fetchrow(_SELECT_FAILED_TASK, key.tenant_id, key.task_id, error.type)
    why = to_json(error).decode()
    if told is not None:
        why = (await open_row(connection, key.tenant_id, AGENT_TASKS, told))["failure"]
    stored = await seal_columns(connection, key.tenant_id, session_id, PIPELINES, key.task_id, error=why)
    await connection.execute(_STORE_PIPELINE_ERROR, key.tenant_id, key.task_id, stored["error"])
