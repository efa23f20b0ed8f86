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
from flotilla.agent.recording import exception_text
from flotilla.agent.wrapped_errors import TaskCancelled, original_error
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import DeadLetter, Refused
from flotilla.contracts.session_events import AgentStateEvent, ErrorRaised
from flotilla.contracts.tasks import APPROVAL_REQUIRED, Failure, ReplyStatus
from flotilla.contracts.values import StorableJson, to_storable
from flotilla.telemetry import genai

MAX_RESULT_BYTES = 8_000_000
NEVER_RETRYABLE = (ValueError, TypeError, Refused, DeadLetter)
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
        with _invocation(agent, ctx):
            async with asyncio.timeout(limit_s):
                result = await _result(agent, ctx, data)
    except BaseException as error:
        origin = original_error(error)
        if isinstance(origin, TaskCancelled) or (ctx.cancelled and isinstance(origin, asyncio.CancelledError)):
            return _cancelled(ctx, started)
        if ctx.gated.is_waiting and not isinstance(error, asyncio.CancelledError):
            return _paused(ctx, started)
        if not isinstance(error, Exception):
            raise
        failure = _failure(origin if isinstance(origin, Exception) else error, limit_s)
        log.warning(
            "task_failed",
            task_id=ctx.task_id,
            attempt=ctx.attempt,
            type=failure.type,
            error=failure.message,
            exc_info=failure.retryable,
        )
        return failed_outcome(ctx, failure, _ms_since(started))
    finally:
        await ctx.close()
    if ctx.gated.is_waiting:
        return _paused(ctx, started)
    return FunctionOutcome(
        status="done",
        duration_ms=_ms_since(started),
        result=result.value,
        escaped=result.escaped,
        events=ctx.recorded.events,
        effects=ctx.effects,
    )


def _invocation(agent: Agent, ctx: TaskContext) -> AbstractContextManager[Span]:
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


def _paused(ctx: TaskContext, started: float) -> FunctionOutcome:
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
    return FunctionOutcome(status="failed", duration_ms=_ms_since(started), failure=failure, is_recorded=False)


def _cancelled(ctx: TaskContext, started: float) -> FunctionOutcome:
    return FunctionOutcome(status="cancelled", duration_ms=_ms_since(started), events=ctx.recorded.events)


async def _result(agent: Agent, ctx: TaskContext, data: dict[str, Any]) -> StorableJson:
    succeeded = False
    try:
        made = await agent.function(ctx, agent.input.decode(data))
        succeeded = True
    finally:
        ctx.end_replay(succeeded=succeeded)
    kept = to_storable(agent.output.encode(made))
    result: dict[str, Any] = kept.value
    if kept.escaped:
        _check_still_fits(agent, result, kept.escaped)
    size = len(to_json(result))
    if size > MAX_RESULT_BYTES:
        raise ValueError(
            f"the result has {size} bytes, {MAX_RESULT_BYTES} are allowed: store the content and return a reference"
        )
    return kept


def _check_still_fits(agent: Agent, result: dict[str, Any], escaped: list[str]) -> None:
    """Text may stand for what no store holds, but not where the agent promises a number."""
    try:
        agent.output.decode(result)
    except ValueError as error:
        raise ValueError(f"the result holds, at {escaped[0]}, a number that JSON has no form for") from error


def _failure(error: Exception, limit_s: float) -> Failure:
    message = exception_text(error)
    if isinstance(error, TimeoutError) and not message:
        message = f"no result within {limit_s:g} s"
    return Failure(
        type=type(error).__name__,
        message=message or type(error).__name__,
        retryable=not isinstance(error, NEVER_RETRYABLE),
        retry_after_s=getattr(error, "retry_after_s", None),
    )


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
