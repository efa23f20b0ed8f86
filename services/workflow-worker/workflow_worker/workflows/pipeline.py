"""`PipelineWorkflow`: any chain of agents by routing slip."""

from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from flotilla.contracts.names import PIPELINE_WORKFLOW, task_workflow_id
    from flotilla.contracts.requests import PipelineRequest
    from flotilla.contracts.tasks import AgentTask
    from workflow_worker.activities.signatures import TaskOutcome

from workflow_worker.workflows.delegation import delegate, trouble_of


@workflow.defn(name=PIPELINE_WORKFLOW)
class PipelineWorkflow:
    """One delegation around the whole slip: each agent hands its result straight to the next one's group."""

    @workflow.run
    async def run(self, request: PipelineRequest) -> TaskOutcome:
        """The last agent's result, or a reference to it.

        Raises:
            ApplicationError: an agent's failure, with its error type.
        """
        if not request.steps:
            raise ApplicationError("a pipeline needs at least one step", type="ValueError", non_retryable=True)
        if not request.task_id:
            request = replace(request, task_id=workflow.info().workflow_id.removeprefix(task_workflow_id("")))
        try:
            return await delegate(_first_task(request))
        except ActivityError as error:
            trouble = trouble_of(error)
            raise ApplicationError(trouble.message, type=trouble.type, non_retryable=True) from error


def _first_task(request: PipelineRequest) -> AgentTask:
    return AgentTask(
        task_id=request.task_id,
        agent=request.steps[0],
        slip=request.steps[1:],
        tenant_id=request.tenant_id,
        session_id=request.session_id or request.task_id,
        user_id=request.user_id,
        input=request.input,
    )
