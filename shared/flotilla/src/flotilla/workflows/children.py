"""Runs that a run starts: each with a session and a history of its own."""

import asyncio
from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ChildWorkflowError, FailureError

from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import is_valid_id, run_workflow_id
from flotilla.contracts.requests import WorkflowRequest
from flotilla.workflows.calls import children as call
from flotilla.workflows.context import RunContext
from flotilla.workflows.delegation import ATTEMPT_TIMEOUT, UNLIMITED_RETRIES, failure_reason
from flotilla.workflows.gated_tools import wait_for_cancelled_child
from flotilla.workflows.interruption import wait_ignoring_cancellation
from flotilla.workflows.journal import RunJournal
from flotilla.workflows.steps import StepFailed


class ChildRuns:
    """The runs that one run starts."""

    def __init__(self, context: RunContext, journal: RunJournal | None) -> None:
        self._context = context
        self._journal = journal

    async def run_child(self, step: str, name: str, data: JsonObject, session_id: str | None) -> JsonObject | None:
        """Start a run of workflow `name` and return what it returns.

        Raises:
            StepFailed: no worker serves it, its session is busy, or it failed or was cancelled.
            asyncio.CancelledError: this run was cancelled; the child has ended.
        """
        run_id = f"{self._context.key.run_id}.{step}"
        if not is_valid_id(run_id):
            why = f"{run_id} can't be a run's id: letters, digits and . _ : -, 128 at most; name the step with `step`"
            raise ApplicationError(f"{step}: {why}", type="Invalid", non_retryable=True)
        details: JsonObject = {
            "step": step,
            "child_run_id": run_id,
            "workflow": name,
            "child_session_id": session_id or run_id,
        }
        await self._note_change("run_child_started", details)
        try:
            output = await self._start_child_and_wait(name, self._make_child_request(name, data, run_id, session_id))
        except FailureError as error:
            cause = error.cause if isinstance(error, ChildWorkflowError) and error.cause else error
            trouble = failure_reason(cause)
            status = "cancelled" if trouble.cancelled else "failed"
            await self._note_change("run_child_finished", {**details, "status": status, "error": trouble.message})
            # That the child was cancelled does not cancel this run.
            raise StepFailed(step, replace(trouble, cancelled=False)) from error
        await self._note_change("run_child_finished", {**details, "status": "done"})
        return output

    def _make_child_request(self, name: str, data: JsonObject, run_id: str, session_id: str | None) -> WorkflowRequest:
        context = self._context
        return WorkflowRequest(
            workflow=name,
            input=data,
            user_id=context.user_id,
            session_id=session_id or run_id,
            tenant_id=context.key.tenant_id,
            run_id=run_id,
            requested_through=list(context.requested_through),
            requested_by_service=context.requested_by_service,
            acted_by=context.acted_by,
            parent_run_id=context.key.run_id,
        )

    async def _start_child_and_wait(self, name: str, request: WorkflowRequest) -> JsonObject | None:
        found: call.WorkflowServer = await workflow.execute_local_activity(
            call.FIND_WORKFLOW,
            call.FindWorkflow(name=name),
            result_type=call.WorkflowServer,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )
        child: workflow.ChildWorkflowHandle[Any, JsonObject | None] = await workflow.start_child_workflow(
            name,
            replace(request, version=found.version, task_queue=found.task_queue),
            id=run_workflow_id(request.run_id),
            task_queue=found.task_queue or None,
            result_type=dict,
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
        )
        try:
            return await asyncio.shield(child)
        except asyncio.CancelledError:
            child.cancel()
            await wait_ignoring_cancellation(
                wait_for_cancelled_child(child)
            )  # a second cancellation is none: the child has one already
            raise

    async def _note_change(self, change: str, details: JsonObject) -> None:
        if self._journal is not None:
            self._journal.note_run_change(change, details)
            await self._journal.append_notes()
