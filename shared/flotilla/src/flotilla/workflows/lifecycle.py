"""What every run has in common: it is worked on, then completed; however it ends, it is closed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio.exceptions import ApplicationError, FailureError

from flotilla.workflows.delegation import StepTrouble, failure_reason
from flotilla.workflows.interruption import wait_ignoring_cancellation
from flotilla.workflows.steps import StepFailed

T = TypeVar("T")
R = TypeVar("R")


async def run_to_completion(
    work: Awaitable[T], complete: Callable[[T], Awaitable[R]], close: Callable[[StepTrouble], Awaitable[None]]
) -> R:
    """Complete what comes of `work`; close what fails or is cancelled. Neither end is interrupted by a cancellation.

    Raises:
        ApplicationError: why `work` failed, with the type of the error behind it.
        asyncio.CancelledError: the workflow was cancelled.
    """
    try:
        return await wait_ignoring_cancellation(complete(await work))
    except (FailureError, asyncio.CancelledError) as error:
        trouble = error.trouble if isinstance(error, StepFailed) else failure_reason(error)
        await wait_ignoring_cancellation(close(trouble))
        if trouble.cancelled:
            raise asyncio.CancelledError from error
        raise ApplicationError(trouble.message, type=trouble.type, non_retryable=True) from error
