"""One step of a workflow done by an agent: tries, waits between them, cancellation."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError, TimeoutType

from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.mcp import MCP_AGENT
from flotilla.contracts.requests import RunStatus
from flotilla.contracts.tasks import APPROVAL_REQUIRED, AgentTask, McpCallNeeded, mcp_call_id_prefix
from flotilla.workflows.calls.delegation import (
    CANCELLED_BY_AGENT,
    DELEGATE,
    MAX_REASON_CHARS,
    SETTLE_CALLS,
    SUSPENDED,
    TELL_AGENT_CANCELLED,
    AgentFailure,
    CancelledTask,
    EndedTaskReference,
    TaskOutcome,
)
from flotilla.workflows.gated_tools import OnPause, wait_for_verdicts
from flotilla.workflows.interruption import wait_ignoring_cancellation

T = TypeVar("T")
MAX_PAUSES_PER_TASK = 50
"""How often one task may pause for people, before its pause counts as a failure."""

ANSWER_TIMEOUT = timedelta(minutes=30)
"""How long one try may take, the agents' scaling up included; longer where an agent asks for more than the usual."""
USUAL_TASK_TIMEOUT_S = 600.0
"""How long an agent works at a task, unless it says otherwise."""
TIMED_OUT = "Timeout"
CALLS_ARE_SETTLED = "gated-calls-follow-their-tool"
"""Before this patch an approved call counted as completed before its tool ran."""
SILENCE_TIMEOUT = timedelta(seconds=20)
"""An attempt without a sign of life ends here; the next one looks whether the task must be published again."""
_DELEGATE_ACTIVITY_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(seconds=10)
)

LLM_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=2),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=3,
    non_retryable_error_types=["ValueError"],
)
"""For failures that an agent reports."""
MAX_RETRY_AFTER_WAIT = timedelta(minutes=5)
"""The most that a try is put off because an endpoint asks for it."""
SUSPENDED_RETRY_INTERVAL = RetryPolicy(
    initial_interval=timedelta(seconds=2), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=10)
)
"""When a task is given out again whose tenant is suspended. A history has room for weeks of it."""
DATABASE_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=60),
    maximum_attempts=5,
)
UNLIMITED_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
"""For what must happen, however long the database is unavailable."""
ATTEMPT_TIMEOUT = timedelta(seconds=10)
"""How long one attempt at the database may take; also how long a killed worker's attempt is waited for."""


async def delegate(
    task: AgentTask,
    retries: RetryPolicy = LLM_RETRIES,
    on_pause: OnPause | None = None,
    limits_s: Mapping[str, float] | None = None,
) -> TaskOutcome:
    """The result of `task`, tried again as `retries` says when the agent reports a failure that may pass.

    A task that calls a gated tool pauses: its try ends, people are asked, and the next try follows their verdict.
    `limits_s` says how long a task of each agent may take.

    Raises:
        ActivityError: the last try's failure; its cause has the agent's error type and message.
        asyncio.CancelledError: the workflow was cancelled, and the agent was notified.
    """
    pauses = PauseCounter()
    try:
        return await _delegate_until_answered(task, retries, on_pause, limits_s or {}, pauses)
    finally:
        # An evicted workflow's coroutine is closed outside of it, where there is nothing to settle.
        if pauses.count and workflow.in_workflow() and workflow.patched(CALLS_ARE_SETTLED):
            await wait_ignoring_cancellation(_settle_gated_calls(task, is_over=True))


@dataclass(slots=True)
class PauseCounter:
    """How often a task paused for people."""

    count: int = 0


async def _settle_gated_calls(task: AgentTask, *, is_over: bool) -> None:
    await workflow.execute_local_activity(
        SETTLE_CALLS,
        EndedTaskReference(tenant_id=task.tenant_id, task_id=task.task_id, is_over=is_over),
        start_to_close_timeout=ATTEMPT_TIMEOUT,
        retry_policy=UNLIMITED_RETRIES,
    )


def _answer_timeout(task: AgentTask, limits_s: Mapping[str, float]) -> timedelta:
    """How long one try may take: the agents' scaling up, and what the agents of the slip need beyond the usual."""
    needed = [task.timeout_s or limits_s.get(agent, USUAL_TASK_TIMEOUT_S) for agent in (task.agent, *task.slip)]
    return ANSWER_TIMEOUT + timedelta(seconds=sum(max(0.0, limit - USUAL_TASK_TIMEOUT_S) for limit in needed))


async def _delegate_until_answered(
    task: AgentTask,
    retries: RetryPolicy,
    on_pause: OnPause | None,
    limits_s: Mapping[str, float],
    pauses: PauseCounter,
) -> TaskOutcome:
    attempt, failures, holds, timeout = 1, 0, 0, _answer_timeout(task, limits_s)
    while True:
        try:
            return await _delegate_one_attempt(replace(task, attempt=attempt), timeout)
        except ActivityError as error:
            if _is_held_back_by_suspension(error):
                holds += 1
                await workflow.sleep(
                    retry_delay(SUSPENDED_RETRY_INTERVAL, holds), summary=f"{task.tenant_id} is suspended"
                )
                continue
            pause = None if task.replay else _pause_from_error(error)  # a replay asks nobody, and calls nothing
            if pause is not None and pauses.count < MAX_PAUSES_PER_TASK:
                if pauses.count and workflow.patched(CALLS_ARE_SETTLED):
                    await _settle_gated_calls(task, is_over=False)
                pauses.count += 1
                await asyncio.gather(
                    wait_for_verdicts(task, pause, on_pause),
                    *(_delegate_mcp_call(task, call, on_pause, limits_s) for call in pause.calls),
                )
            else:
                failures += 1
                if not _is_retry_allowed(error, retries, failures):
                    raise
                await workflow.sleep(
                    _wait_before_next_attempt(error, retries, failures),
                    summary=f"before try {attempt + 1} of {task.task_id}",
                )
            attempt += 1


async def _delegate_one_attempt(task: AgentTask, timeout: timedelta) -> TaskOutcome:
    first = task.attempt == 1
    handle = workflow.start_activity(
        DELEGATE,
        task,
        result_type=TaskOutcome,
        activity_id=task.task_id if first else f"{task.task_id}#{task.attempt}",
        schedule_to_close_timeout=timeout,
        heartbeat_timeout=SILENCE_TIMEOUT,
        retry_policy=_DELEGATE_ACTIVITY_RETRIES,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=task.agent,
    )
    try:
        return cast("TaskOutcome", await asyncio.shield(handle))
    except asyncio.CancelledError:
        await _cancel_delegated_task(handle, task)
        raise
    except ActivityError as error:
        if timeout > ANSWER_TIMEOUT and _is_timed_out_attempt(error):
            message = f"no answer within {timeout.total_seconds():g} s"
            raise ApplicationError(message, type=TIMED_OUT, non_retryable=True) from error
        raise


def _is_timed_out_attempt(error: ActivityError) -> bool:
    return isinstance(error.cause, TimeoutError) and error.cause.type == TimeoutType.SCHEDULE_TO_CLOSE


async def _cancel_delegated_task(handle: "workflow.ActivityHandle[Any]", task: AgentTask) -> None:
    """Tells the agent at once, not only at its next heartbeat, then waits until it has stopped."""
    handle.cancel()
    await workflow.execute_local_activity(
        TELL_AGENT_CANCELLED,
        CancelledTask(task_id=task.task_id),
        start_to_close_timeout=timedelta(seconds=10),
        retry_policy=RetryPolicy(maximum_attempts=3),
    )
    try:
        await handle
    except (ActivityError, asyncio.CancelledError):
        workflow.logger.info("task %s called off", task.task_id)


def _pause_from_error(error: ActivityError) -> AgentFailure | None:
    cause = error.cause
    if not isinstance(cause, ApplicationError) or cause.type != APPROVAL_REQUIRED:
        return None
    details = [detail for detail in cause.details if isinstance(detail, dict)]
    pause = from_builtins(details[0], AgentFailure) if details else None
    if pause is None or not (pause.approvals or pause.calls):
        return None
    return pause if all(call.call_id.startswith(mcp_call_id_prefix(pause.task_id)) for call in pause.calls) else None


async def _delegate_mcp_call(
    task: AgentTask, call: McpCallNeeded, on_pause: OnPause | None, limits_s: Mapping[str, float]
) -> None:
    """Have the tool gateway make the call; the task's next try reads from the database what came of it.

    Raises:
        ActivityError: there is no answer at all, so the next try would find nothing.
    """
    wanted = AgentTask(
        task_id=call.call_id,
        agent=MCP_AGENT,
        tenant_id=task.tenant_id,
        session_id=task.session_id,
        run_id=task.run_id,
        user_id=task.user_id,
        input={"tool": call.tool, "arguments": call.arguments},
        live=task.live,
    )
    try:
        await delegate(wanted, LLM_RETRIES, on_pause, limits_s)
    except ActivityError as error:
        if not _failure_details(error):
            raise
        workflow.logger.info("call %s failed: %s", call.call_id, error.cause)


def _is_held_back_by_suspension(error: ActivityError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.type == SUSPENDED


def _is_retry_allowed(error: ActivityError, retries: RetryPolicy, attempt: int) -> bool:
    cause = error.cause
    if not isinstance(cause, ApplicationError) or attempt >= retries.maximum_attempts:
        return False
    if cause.type in (retries.non_retryable_error_types or []):
        return False
    return any(_is_retryable_failure(detail) for detail in cause.details)


def _wait_before_next_attempt(error: ActivityError, retries: RetryPolicy, failures: int) -> timedelta:
    """The policy's wait, or as long as the endpoint behind the agent asks for, within `MAX_RETRY_AFTER_WAIT`."""
    asked = max((_retry_after_s(detail) for detail in _failure_details(error)), default=0.0)
    return max(retry_delay(retries, failures), timedelta(seconds=min(asked, MAX_RETRY_AFTER_WAIT.total_seconds())))


def _failure_details(error: ActivityError) -> Sequence[object]:
    return error.cause.details if isinstance(error.cause, ApplicationError) else ()


def _retry_after_s(detail: object) -> float:
    asked = detail.get("retry_after_s") if isinstance(detail, dict) else None
    return float(asked) if isinstance(asked, int | float) and asked > 0 else 0.0


def _is_retryable_failure(detail: object) -> bool:
    return isinstance(detail, dict) and "retryable" in detail and from_builtins(detail, AgentFailure).retryable


def retry_delay(retries: RetryPolicy, attempt: int) -> timedelta:
    """The wait after try `attempt`, as Temporal's own retries would do it."""
    wait = retries.initial_interval * retries.backoff_coefficient ** (attempt - 1)
    return min(wait, retries.maximum_interval or wait)


@dataclass(frozen=True, slots=True)
class StepTrouble:
    """Why a step failed, in words that a person can use."""

    type: str
    message: str
    timed_out: bool
    cancelled: bool
    retryable: bool
    step: str = ""
    """Which step of the run failed, where one did."""


def failure_reason(error: BaseException) -> StepTrouble:
    """The cause behind an activity's failure, without Temporal's wrapping, short enough for a row and an event."""
    trouble = _unshortened_failure_reason(error)
    return replace(trouble, message=trouble.message[:MAX_REASON_CHARS])


def _unshortened_failure_reason(error: BaseException) -> StepTrouble:
    if isinstance(error, asyncio.CancelledError):
        return StepTrouble("Cancelled", "the workflow was cancelled", timed_out=False, cancelled=True, retryable=False)
    cause = error.cause if isinstance(error, ActivityError) and error.cause else error
    if isinstance(cause, ApplicationError):
        kind = cause.type or type(cause).__name__
        retryable = kind == TIMED_OUT or any(_is_retryable_failure(detail) for detail in cause.details)
        return StepTrouble(
            kind, cause.message, timed_out=kind == TIMED_OUT, cancelled=kind == CANCELLED_BY_AGENT, retryable=retryable
        )
    if isinstance(cause, TimeoutError):
        is_delegated = isinstance(error, ActivityError) and error.activity_type == DELEGATE
        message = _timeout_message(cause, is_delegated=is_delegated)
        return StepTrouble(TIMED_OUT, message, timed_out=True, cancelled=False, retryable=True)
    cancelled = isinstance(cause, CancelledError)
    return StepTrouble(type(cause).__name__, str(cause), timed_out=False, cancelled=cancelled, retryable=False)


def run_status_for(trouble: StepTrouble) -> RunStatus:
    """How a run ends that met this."""
    if trouble.cancelled:
        return "cancelled"
    return "timeout" if trouble.timed_out else "error"


def _timeout_message(error: TimeoutError, *, is_delegated: bool) -> str:
    if error.type == TimeoutType.SCHEDULE_TO_CLOSE and is_delegated:
        return f"no answer within {ANSWER_TIMEOUT.total_seconds():g} s"
    return f"{error.message or 'timed out'} ({error.type.name.lower() if error.type else 'timeout'})"
