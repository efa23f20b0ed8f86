"""Runs a task function and turns whatever happens into an outcome. Knows no store and no bus."""

import asyncio
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import structlog
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from flotilla.agent.agent import Agent
from flotilla.agent.context import Effect, TaskContext
from flotilla.agent.recording import storable_exception_message
from flotilla.agent.wrapped_errors import TaskCancelled, unwrap_framework_error
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import DeadLetter, Refused
from flotilla.contracts.session_events import AgentStateEvent, ErrorRaised
from flotilla.contracts.tasks import APPROVAL_REQUIRED, Failure, ReplyStatus
from flotilla.contracts.values import StorableJson, to_storable
from flotilla.telemetry import genai

MAX_TASK_RESULT_BYTES = 8_000_000
NOT_RETRYABLE_ERRORS = (ValueError, TypeError, Refused, DeadLetter)
"""Errors that the same input would bring again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionOutcome:
    """How a task ended: `done` with a result, `failed` with a failure, or `cancelled`."""

    status: ReplyStatus
    duration_ms: float
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    events: list[AgentStateEvent] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    escaped: list[str] = field(default_factory=list)
    """Where in the result text stands for what no store holds."""
    is_recorded: bool = True
    """False for a pause, whose events the try records that gets through, and where there is no log to write to."""


async def run_task_function(agent: Agent, ctx: TaskContext, data: dict[str, Any]) -> FunctionOutcome:
    """Run the agent's function on `data`. An exception in it is an answer; only cancellation passes through."""
    started = time.monotonic()
    limit_s = ctx.task.timeout_s or agent.timeout_s
    try:
        with _invocation_span(agent, ctx):
            async with asyncio.timeout(limit_s):
                result = await _run_and_encode_result(agent, ctx, data)
    except BaseException as error:
        origin = unwrap_framework_error(error)
        if isinstance(origin, TaskCancelled) or (ctx.cancelled and isinstance(origin, asyncio.CancelledError)):
            return _cancelled_outcome(ctx, started)
        if ctx.gated.must_pause and not isinstance(error, asyncio.CancelledError):
            return _paused_outcome(ctx, started)
        if not isinstance(error, Exception):
            raise
        failure = _failure_from_exception(origin if isinstance(origin, Exception) else error, limit_s)
        log.warning(
            "task_failed",
            task_id=ctx.task_id,
            attempt=ctx.attempt,
            type=failure.type,
            error=failure.message,
            exc_info=failure.retryable,
        )
        return failed_outcome(ctx, failure, _elapsed_ms(started))
    finally:
        await ctx.close()
    if ctx.gated.must_pause:
        return _paused_outcome(ctx, started)
    return FunctionOutcome(
        status="done",
        duration_ms=_elapsed_ms(started),
        result=result.value,
        escaped=result.escaped,
        events=ctx.recorded.events,
        effects=ctx.effects,
    )


def _invocation_span(agent: Agent, ctx: TaskContext) -> AbstractContextManager[Span]:
    attributes: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "flotilla",
        "gen_ai.agent.name": agent.name,
        "gen_ai.agent.version": agent.version,
        "gen_ai.conversation.id": ctx.session_id,
    }
    return genai.genai_span(f"invoke_agent {agent.name}", genai.INVOKE_AGENT_DURATION, attributes)


def failed_outcome(ctx: TaskContext, failure: Failure, duration_ms: float) -> FunctionOutcome:
    """The outcome of a failure, with an `error` event after what was recorded before it."""
    ctx.record(
        "error",
        ErrorRaised(
            type=failure.type,
            message=failure.message,
            where=ctx.agent,
            retryable=failure.retryable,
            attempt=ctx.attempt,
        ),
    )
    return FunctionOutcome(status="failed", duration_ms=duration_ms, failure=failure, events=ctx.recorded.events)


def _paused_outcome(ctx: TaskContext, started: float) -> FunctionOutcome:
    """The task waits. What it did so far is recorded by the try that gets through."""
    actions = [needed.action for needed in ctx.gated.needed]
    tools = [call.tool for call in ctx.gated.calls]
    failure = Failure(
        type=APPROVAL_REQUIRED,
        message=f"waits for approval: {', '.join(actions)}" if actions else f"waits for {', '.join(tools)}",
        retryable=False,
        approvals=ctx.gated.needed,
        calls=ctx.gated.calls,
    )
    return FunctionOutcome(status="failed", duration_ms=_elapsed_ms(started), failure=failure, is_recorded=False)


def _cancelled_outcome(ctx: TaskContext, started: float) -> FunctionOutcome:
    return FunctionOutcome(status="cancelled", duration_ms=_elapsed_ms(started), events=ctx.recorded.events)


async def _run_and_encode_result(agent: Agent, ctx: TaskContext, data: dict[str, Any]) -> StorableJson:
    succeeded = False
    try:
        made = await agent.function(ctx, agent.input.decode(data))
        succeeded = True
    finally:
        ctx.record_replay_differences(succeeded=succeeded)
    kept = to_storable(agent.output.encode(made))
    result: dict[str, Any] = kept.value
    if kept.escaped:
        _check_result_matches_schema(agent, result, kept.escaped)
    size = len(to_json(result))
    if size > MAX_TASK_RESULT_BYTES:
        raise ValueError(
            f"the result has {size} bytes, {MAX_TASK_RESULT_BYTES} are allowed: store the content, return a reference"
        )
    return kept


def _check_result_matches_schema(agent: Agent, result: dict[str, Any], escaped: list[str]) -> None:
    """Text may stand for what no store holds, but not where the agent promises a number."""
    try:
        agent.output.decode(result)
    except ValueError as error:
        raise ValueError(f"the result holds, at {escaped[0]}, a number that JSON has no form for") from error


def _failure_from_exception(error: Exception, limit_s: float) -> Failure:
    message = storable_exception_message(error)
    if isinstance(error, TimeoutError) and not message:
        message = f"no result within {limit_s:g} s"
    return Failure(
        type=type(error).__name__,
        message=message or type(error).__name__,
        retryable=not isinstance(error, NOT_RETRYABLE_ERRORS),
        retry_after_s=getattr(error, "retry_after_s", None),
    )


def _elapsed_ms(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
