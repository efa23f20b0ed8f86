"""What the approval workflow does by activities, and answers to its callers: nothing here has a state."""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar, cast

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from flotilla.approvals.ballot import Ballot, VoteRefusal
    from flotilla.contracts.approvals import ActionStatus, ApprovalRequirement, ApprovalStatus
    from flotilla.contracts.json_types import JsonObject
    from workflow_worker.activities.signatures import actions as call

from flotilla.workflows.delegation import ATTEMPT_TIMEOUT, UNLIMITED_RETRIES

T = TypeVar("T")
_DELIVERY_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=5), maximum_attempts=12
)


def approval_status_of_action(
    ballot: Ballot | None, requirement: ApprovalRequirement | None, status: ActionStatus
) -> ApprovalStatus:
    """Return the vote's status, and without a vote that of the action."""
    if ballot is not None:
        return ballot.status
    if requirement is not None and not requirement.required:
        return "not_required"
    return "cancelled" if status in ("cancelled", "failed") else "pending"


def accept_any_args(_action: str, _args: JsonObject) -> None:
    """The activity that assesses an edit checks its arguments."""


def update_refused_error(refusal: VoteRefusal) -> ApplicationError:
    """Return the error that an Update answers with."""
    return ApplicationError(refusal.message, type=refusal.type, non_retryable=True)


def update_id_of_handler() -> str:
    """Return the id of the Update whose handler calls."""
    info = workflow.current_update_info()
    assert info is not None  # noqa: S101 - only called by an Update's handler
    return info.id


async def try_to_deliver_webhook(delivery: "call.WebhookDelivery") -> None:
    """Best effort: a receiver that stays away must not hold the vote up; its row records it."""
    try:
        await run_activity(call.DELIVER_WEBHOOK, delivery, None, retries=_DELIVERY_RETRIES)
    except ActivityError as error:
        workflow.logger.warning("webhook %s was not delivered: %s", delivery.delivery_id, error.cause)


async def run_activity(
    activity: str,
    message: object,
    result_type: type[T] | None,
    *,
    timeout: timedelta = ATTEMPT_TIMEOUT,
    heartbeat: timedelta | None = None,
    retries: RetryPolicy = UNLIMITED_RETRIES,
) -> T:
    """Run an activity and return its result."""
    work: Coroutine[Any, Any, Any] = workflow.execute_activity(
        activity,
        message,
        result_type=result_type,
        start_to_close_timeout=timeout,
        heartbeat_timeout=heartbeat,
        retry_policy=retries,
    )
    return cast("T", await work)
