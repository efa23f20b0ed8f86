"""`PipelineWorkflow`: any chain of agents by routing slip."""

from dataclasses import replace
from typing import cast

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from flotilla.contracts.names import PIPELINE_WORKFLOW, task_workflow_id
    from flotilla.contracts.requests import PipelineRequest, RunStatus
    from flotilla.contracts.session_events import ErrorRaised
    from flotilla.contracts.tasks import AgentTask
    from flotilla.workflows.calls.delegation import TaskOutcome
    from workflow_worker.activities.signatures import pipelines as call

from flotilla.workflows.delegation import (
    ANSWER_TIMEOUT,
    ATTEMPT_TIMEOUT,
    UNLIMITED_RETRIES,
    StepTrouble,
    delegate,
    run_status_for,
)
from flotilla.workflows.lifecycle import run_to_completion

KEEPS_ITS_ROW = "pipeline-keeps-its-row"
"""Before this patch only the worker's leader wrote the pipeline's row."""


@workflow.defn(name=PIPELINE_WORKFLOW)
class PipelineWorkflow:
    """One delegation around the whole slip: each agent hands its result straight to the next one's group."""

    @workflow.run
    async def run(self, request: PipelineRequest) -> TaskOutcome:
        """The last agent's result, or a reference to it.

        Raises:
            ApplicationError: an agent's failure, with its error type.
        """
        if not request.task_id:
            request = replace(request, task_id=workflow.info().workflow_id.removeprefix(task_workflow_id("")))
        key = call.PipelineReference(tenant_id=request.tenant_id, task_id=request.task_id)

        async def complete(outcome: TaskOutcome) -> TaskOutcome:
            await _finish_pipeline(key, "success")
            return outcome

        async def close(trouble: StepTrouble) -> None:
            await _finish_pipeline(key, run_status_for(trouble), _error_from_trouble(trouble))

        return await run_to_completion(self._delegate_slip(request, key), complete, close)

    async def _delegate_slip(self, request: PipelineRequest, key: "call.PipelineReference") -> TaskOutcome:
        if not request.steps:
            raise ApplicationError("a pipeline needs at least one step", type="ValueError", non_retryable=True)
        begun = await _begin_pipeline(key) if workflow.patched(KEEPS_ITS_ROW) else None
        return await delegate(_make_first_task(request), limits_s=begun.limits_s if begun else {})


async def _begin_pipeline(key: "call.PipelineReference") -> "call.BegunPipeline | None":
    """None where the history is from before `begin_pipeline` gave anything."""
    begun = await workflow.execute_local_activity(
        call.BEGIN_PIPELINE,
        key,
        result_type=call.BegunPipeline | None,  # type: ignore[arg-type]
        start_to_close_timeout=ATTEMPT_TIMEOUT,
        schedule_to_close_timeout=ANSWER_TIMEOUT,
        retry_policy=UNLIMITED_RETRIES,
    )
    return cast("call.BegunPipeline | None", begun)


def _error_from_trouble(trouble: StepTrouble) -> ErrorRaised:
    return ErrorRaised(type=trouble.type, message=trouble.message, where="pipeline", retryable=trouble.retryable)


async def _finish_pipeline(key: "call.PipelineReference", status: RunStatus, error: ErrorRaised | None = None) -> None:
    if not workflow.patched(KEEPS_ITS_ROW):
        return
    await workflow.execute_activity(
        call.FINISH_PIPELINE,
        call.FinishedPipeline(key=key, status=status, error=error),
        start_to_close_timeout=ATTEMPT_TIMEOUT,
        retry_policy=UNLIMITED_RETRIES,
    )


def _make_first_task(request: PipelineRequest) -> AgentTask:
    return AgentTask(
        task_id=request.task_id,
        agent=request.steps[0],
        slip=request.steps[1:],
        tenant_id=request.tenant_id,
        session_id=request.session_id or request.task_id,
        user_id=request.user_id,
        input=request.input,
        timeout_s=request.timeout_s,
    )
