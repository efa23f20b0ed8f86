"""How a pipeline stands whose row is still open: Temporal knows sooner than the worker's leader writes it down."""

from collections.abc import Mapping

from temporalio.client import WorkflowExecutionStatus

from flotilla.contracts.errors import NotFound
from gateway.schemas.pipelines import PipelineStatus, Task
from gateway.temporal import TemporalGateway

_STATUSES: Mapping[WorkflowExecutionStatus, PipelineStatus] = {
    WorkflowExecutionStatus.RUNNING: "running",
    WorkflowExecutionStatus.COMPLETED: "success",
    WorkflowExecutionStatus.FAILED: "error",
    WorkflowExecutionStatus.TERMINATED: "cancelled",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TIMED_OUT: "timeout",
}


async def with_current_status(temporal: TemporalGateway, task: Task) -> Task:
    """The pipeline as it stands now.

    Raises:
        RetryLater: Temporal does not answer.
    """
    if task.finished_at is not None:
        return task
    try:
        described = await temporal.describe_workflow(task.workflow_id)
    except NotFound:
        return task  # not started yet: the worker's leader does it
    status = _STATUSES.get(described.status, "running") if described.status else "running"
    if status == "running" and task.status == "waiting_for_approval":
        return task
    return task.model_copy(update={"status": status, "finished_at": described.close_time})
