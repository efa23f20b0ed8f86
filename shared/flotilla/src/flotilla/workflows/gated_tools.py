"""Governed calls and actions of a workflow: one `HumanInTheLoopWorkflow` each."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError

from flotilla.contracts.approvals import ActionState
from flotilla.contracts.names import APPROVAL_WORKFLOW, action_workflow_id
from flotilla.contracts.requests import ActionRequest
from flotilla.contracts.tasks import AgentTask, ApprovalNeeded
from flotilla.workflows.calls.delegation import AgentFailure
from flotilla.workflows.interruption import wait_ignoring_cancellation

OnPause: TypeAlias = Callable[[bool], Awaitable[None]]
"""Told True when the task begins to wait for people, False when it goes on."""
_CHECK_FOR_APPROVAL_AFTER_S = 2.0
"""An action that takes longer may be waiting for people: its run shows whether it does."""


async def wait_for_verdicts(task: AgentTask, pause: AgentFailure, on_pause: OnPause | None) -> None:
    """Return when there is a verdict about each call; the agent's next try reads them from the database.

    Raises:
        asyncio.CancelledError: the workflow was cancelled; so are the votes.
    """
    if not pause.approvals:
        return
    if on_pause is not None:
        await on_pause(True)  # noqa: FBT003 - a state, not an option
    await asyncio.gather(*(_wait_for_call_verdict(task, pause, call) for call in pause.approvals))
    if on_pause is not None:
        await on_pause(False)  # noqa: FBT003


async def _wait_for_call_verdict(task: AgentTask, pause: AgentFailure, call: ApprovalNeeded) -> None:
    request = ActionRequest(
        action=call.action,
        description=call.description,
        risk_level=call.risk_level,
        requested_by=f"/agents/{pause.agent}",
        args=call.args,
        action_id=call.approval_id,
        tenant_id=task.tenant_id,
        session_id=task.session_id,
        on_behalf_of=task.user_id or "",
        run_id=task.run_id or "",
        task_id=pause.task_id,
    )
    vote = await _start_approval_workflow(request)
    try:
        await asyncio.shield(vote)
    except asyncio.CancelledError:
        await _cancel_vote_and_wait(vote)
        raise
    except ChildWorkflowError as error:
        # Somebody ended the vote itself: its row records it, or the next try asks again.
        workflow.logger.warning("vote %s ended without a verdict: %s", call.approval_id, error.cause)


async def wait_for_action_end(request: ActionRequest, on_pause: OnPause) -> ActionState:
    """Return how a governed action ended: executed at once, or after people approved it.

    Raises:
        ChildWorkflowError: somebody ended its workflow.
        asyncio.CancelledError: the workflow was cancelled, and so is the action if it was not executed yet.
    """
    action = await _start_approval_workflow(request)
    try:
        await workflow.wait([action], timeout=_CHECK_FOR_APPROVAL_AFTER_S)
        if action.done():
            return await action
        await on_pause(True)  # noqa: FBT003 - a state, not an option
        state = await asyncio.shield(action)
        await on_pause(False)  # noqa: FBT003
    except asyncio.CancelledError:
        await _cancel_vote_and_wait(action)
        raise
    return state


async def _start_approval_workflow(request: ActionRequest) -> "workflow.ChildWorkflowHandle[Any, ActionState]":
    return await workflow.start_child_workflow(
        APPROVAL_WORKFLOW,
        request,
        id=action_workflow_id(request.action_id),
        result_type=ActionState,
        task_timeout=workflow.info().task_timeout,
        cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
    )


async def _cancel_vote_and_wait(vote: "workflow.ChildWorkflowHandle[Any, ActionState]") -> None:
    """End the vote with the run, and wait until it is off the inbox, however often that is cancelled."""
    vote.cancel()
    await wait_ignoring_cancellation(wait_for_cancelled_child(vote))


async def wait_for_cancelled_child(child: "workflow.ChildWorkflowHandle[Any, Any]") -> None:
    """Wait until a child that was asked to end has ended, however it did."""
    try:
        await child
    except (ChildWorkflowError, asyncio.CancelledError):
        workflow.logger.info("%s called off", child.id)
