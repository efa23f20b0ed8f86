"""One call of a tool: whether it runs, under which name, what is recorded of it, and what the caller gets."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from flotilla.agent.gates import ApprovalPending, GatedToolCalls
from flotilla.agent.mcp_tools import McpCallOutcome, McpTool
from flotilla.agent.occurrences import IdenticalCallCounter
from flotilla.agent.pauses import RunningToolCalls
from flotilla.agent.ports import (
    IdentifiedToolCall,
    McpCaller,
    StartedToolCall,
    ToolCallEnd,
    ToolCallHistory,
    ToolCallStore,
)
from flotilla.agent.recorded_run import RecordedRun
from flotilla.agent.recording import (
    TaskEventRecorder,
    arguments_as_recorded,
    describe_exception,
    shorten_result,
    tool_call_data,
)
from flotilla.agent.tools import CallableTool
from flotilla.contracts.envelope import to_builtins, to_json
from flotilla.contracts.errors import DeadLetter, Invalid, Refused, RetryLater
from flotilla.contracts.ids import IdMaker
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import ToolResult
from flotilla.contracts.tasks import AgentTask, McpCallNeeded
from flotilla.contracts.tools import OnUnknown
from flotilla.contracts.values import first_infinite, to_storable
from flotilla.telemetry import genai

MAX_STORED_RESULT_BYTES = 8_000_000
TOOL_REFUSAL_ERRORS = (ValueError, TypeError, Refused, DeadLetter)
"""Errors by which a tool says that it did nothing, and that the same arguments would fail again."""


class ToolOutcomeUnknown(Refused):
    """The call was begun before and may have had its effect, but gave no answer; it is not made again."""


class ToolNotCalled(RetryLater):
    """By this a tool says that it did nothing, and that the same call may succeed later."""


class ToolResultNotStored(Refused):
    """The tool ran, but its result is not JSON or too large: return less, or mark a tool that only reads repeatable."""


@dataclass(frozen=True, slots=True)
class _PreparedCall:
    """A call with everything that its run needs."""

    tool: CallableTool
    arguments: dict[str, Any]
    named: IdentifiedToolCall
    key: str
    approval_id: str | None = None
    decided_args: JsonObject = field(default_factory=dict)
    """As people approved them."""


@dataclass(slots=True)
class _CallRecord:
    """What the log will show of a start."""

    call_id: str
    result: Any = None
    error: str | None = None
    duration_ms: float = 0.0
    escaped: list[str] = field(default_factory=list)


class ToolRunner:
    """The tool calls of one run of a task."""

    def __init__(
        self,
        task: AgentTask,
        calls: ToolCallStore,
        gated: GatedToolCalls,
        recorder: TaskEventRecorder,
        make_id: IdMaker,
        *,
        mcp_answers: Mapping[str, McpCallOutcome] | None = None,
        mcp_caller: McpCaller | None = None,
        recording: RecordedRun | None = None,
    ) -> None:
        """With a `recording` no tool runs: it answers."""
        self._task = task
        self._calls = calls
        self._gated = gated
        self._recorder = recorder
        self._make_id = make_id
        self._mcp_answers = mcp_answers or {}
        self._mcp_caller = mcp_caller
        self._recording = recording
        self._occurrences = IdenticalCallCounter()
        self._pauses = RunningToolCalls()

    async def run_tool(self, ctx: object, tool: CallableTool, arguments: Mapping[str, Any]) -> Any:
        """What the tool returns, or returned in an earlier run; see `TaskContext.tool`."""
        checked = tool.validated_arguments(arguments)
        if tool.name in self._gated:
            checked = _check_arguments_are_storable(tool, checked)
        hashed = _hash_arguments(checked)
        async with self._number_call(tool.name, hashed) as number:
            named = IdentifiedToolCall(
                tool=tool.name, args_hash=hashed, occurrence=number, args=arguments_as_recorded(checked)
            )
            call = _PreparedCall(tool, checked, named, tool_call_idempotency_key(self._task, named))
            if self._recording is not None:
                return await self._result_from_recording(ctx, call, self._recording)
            if isinstance(tool, McpTool):
                return await self._result_of_mcp_call(call, tool)
            if tool.name in self._gated:
                call = self._require_approval(call)
            if tool.options.repeatable:
                return await self._run_repeatable_tool(ctx, call)
            return await self._run_tool_once(ctx, call)

    @asynccontextmanager
    async def _number_call(self, tool: str, hashed: bytes) -> AsyncIterator[int]:
        """Which of the equal calls this is. One that waits for people ends after those beside it."""
        async with self._pauses.track_call():
            with self._occurrences.reserve_call_number((tool, hashed)) as number:
                yield number

    async def _result_from_recording(self, ctx: object, call: _PreparedCall, recording: RecordedRun) -> Any:
        """What the recording has of the call; a search is made, where the replay asks for it."""
        with self._record_call_and_end(call, self._make_id()) as shown:
            if recording.may_call_live_tool(call.named, call.tool.options):
                shown.result = await self._execute_tool(ctx, call, shown.call_id)
                return shown.result
            shown.result = recording.recorded_result(call.named, call.tool.options)
        return call.tool.decode_result(shown.result)

    def _require_approval(self, call: _PreparedCall) -> _PreparedCall:
        tool = call.tool
        approval_id, verdict = self._gated.verdict_on_call(
            tool.name, tool.description, _to_plain_arguments(call.arguments), call.named
        )
        named = replace(call.named, args=arguments_as_recorded(verdict.args))
        arguments = _check_arguments_are_storable(tool, tool.validated_arguments(verdict.args))
        return replace(call, arguments=arguments, named=named, approval_id=approval_id, decided_args=verdict.args)

    async def _result_of_mcp_call(self, call: _PreparedCall, tool: McpTool) -> Any:
        """What the tool gateway's call came to.

        Raises:
            ApprovalPending: the worker has to ask for it: the task pauses.
            McpToolFailed: it failed, or was refused.
        """
        wanted = tool.to_call_request(self._task, call.named, _to_storable_arguments(call.arguments))
        with self._record_call_and_end(call, self._make_id()) as shown:
            answer = self._mcp_answers.get(wanted.call_id) or await self._ask_tool_gateway(call, wanted, shown.call_id)
            if answer is None:
                self._gated.calls.append(wanted)
                raise ApprovalPending(f"tool {tool.name} is called by the tool gateway as {wanted.call_id}")
            shown.result = answer.result_or_raise(tool.name)
        return shown.result

    async def _ask_tool_gateway(
        self, call: _PreparedCall, wanted: McpCallNeeded, call_id: str
    ) -> McpCallOutcome | None:
        if self._mcp_caller is None:
            return None
        with self._tool_execution_span(call.tool.name, call_id):
            result = await self._mcp_caller.call_at_once(self._task, wanted)
        return None if result is None else McpCallOutcome(result)

    async def _check_call_signatures(self, call: _PreparedCall, approval_id: str | None) -> None:
        """Check the signatures under the approval by which the call runs, before anything of it happens."""
        if approval_id is not None:
            args = call.decided_args if approval_id == call.approval_id else _to_storable_arguments(call.arguments)
            await self._gated.check_signatures(approval_id, call.tool.name, args)

    async def _run_repeatable_tool(self, ctx: object, call: _PreparedCall) -> Any:
        await self._check_call_signatures(call, call.approval_id)
        with self._record_call_and_end(call, self._make_id()) as shown:
            shown.result = await self._execute_tool(ctx, call, shown.call_id)
        return shown.result

    async def _run_tool_once(self, ctx: object, call: _PreparedCall) -> Any:
        earlier = await self._gated.executed_result(call.approval_id) if call.approval_id else None
        if earlier is not None:
            return self._reuse_stored_result(
                call, ToolCallEnd(outcome="returned", result=earlier["value"], call_id=self._make_id())
            )
        while True:
            standing = await self._calls.load_call_history(call.named)
            if standing.returned is not None:
                return self._reuse_stored_result(call, standing.returned)
            approval_id = self._approval_to_begin(call, standing)
            await self._check_call_signatures(call, approval_id)
            begun = await self._calls.begin_call(call.named, standing.starts + 1, self._make_id(), approval_id)
            if begun is not None:
                return await self._finish_started_call(ctx, call, begun)

    def _approval_to_begin(self, call: _PreparedCall, standing: ToolCallHistory) -> str | None:
        """The approval under which the call may run now.

        Raises:
            ToolOutcomeUnknown: it may have run, and is not to run again.
            ApprovalPending: people are asked whether it may.
        """
        if not standing.is_unknown:
            return call.approval_id
        if self._outcome_unknown_policy(call) == "again":
            return call.approval_id
        tool, what = call.tool.name, f"tool {call.tool.name} was begun {standing.starts} times without an answer"
        if self._outcome_unknown_policy(call) == "fail":
            raise ToolOutcomeUnknown(f"{what}, and may have had its effect: on_unknown='fail' does not run it again")
        args = _to_storable_arguments(call.arguments)
        approval_id, approved = self._gated.rerun_approval(
            tool, f"{what}. Run it again?", args, call.named, standing.starts
        )
        if not approved:
            raise ToolOutcomeUnknown(f"{what}, and people did not approve to run it again ({approval_id})")
        return approval_id

    def _outcome_unknown_policy(self, call: _PreparedCall) -> OnUnknown:
        return call.tool.options.on_unknown or ("ask" if call.tool.name in self._gated else "again")

    async def _finish_started_call(self, ctx: object, call: _PreparedCall, begun: StartedToolCall) -> Any:
        with self._record_call_and_end(call, begun.call_id) as shown:
            async with self._calls.hold_call_claim(begun), self._store_end_on_error(begun):
                ended = _call_end_of_result(await self._execute_tool(ctx, call, begun.call_id), call)
            stored = await self._calls.store_call_end(begun, ended)
            if call.approval_id is not None:
                await self._gated.store_result(
                    call.approval_id, call.tool.name, _to_plain_arguments(call.arguments), stored.result
                )
            shown.result, shown.escaped = ended.result, ended.escaped
        return self._decode_stored_result(call, stored.result)

    @asynccontextmanager
    async def _store_end_on_error(self, begun: StartedToolCall) -> AsyncIterator[None]:
        """Store an error of the tool as the end of its call."""
        try:
            yield
        except BaseException as error:
            await asyncio.shield(self._calls.store_call_end(begun, _call_end_of_error(error)))
            raise

    async def _execute_tool(self, ctx: object, call: _PreparedCall, call_id: str) -> Any:
        with self._tool_execution_span(call.tool.name, call_id):
            return await call.tool(ctx, call.arguments, call.key)

    def _tool_execution_span(self, name: str, call_id: str) -> AbstractContextManager[Span]:
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": call_id,
            "gen_ai.agent.name": self._task.agent,
        }
        return genai.genai_span(f"execute_tool {name}", genai.EXECUTE_TOOL_DURATION, attributes)

    def _reuse_stored_result(self, call: _PreparedCall, ended: ToolCallEnd) -> Any:
        if not ended.recorded:
            self._record_call(call, ended.call_id)
            self._record_result(call, ended)
        return self._decode_stored_result(call, ended.result)

    def _decode_stored_result(self, call: _PreparedCall, result: Any) -> Any:
        return result if call.approval_id is not None else call.tool.decode_result(result)

    @contextmanager
    def _record_call_and_end(self, call: _PreparedCall, call_id: str) -> Iterator["_CallRecord"]:
        """Record a start of the call, and its end however it comes."""
        started = time.monotonic()
        shown = _CallRecord(call_id)
        self._record_call(call, call_id)
        try:
            yield shown
        except BaseException as error:
            shown.error = describe_exception(error)
            raise
        finally:
            shown.duration_ms = round((time.monotonic() - started) * 1000, 3)
            self._record_result(call, shown)

    def _record_call(self, call: _PreparedCall, call_id: str) -> None:
        self._recorder.record_event("tool_call", tool_call_data(call.named, call_id, self._task.agent))

    def _record_result(self, call: _PreparedCall, ended: "ToolCallEnd | _CallRecord") -> None:
        data = ToolResult(
            tool=call.tool.name,
            call_id=ended.call_id,
            ok=ended.error is None,
            duration_ms=ended.duration_ms,
            result=shorten_result(ended.result) if ended.error is None else None,
            error=ended.error,
            agent=self._task.agent,
        )
        self._recorder.record_event("tool_result", data, escaped=[f"/result{place}" for place in ended.escaped])


def tool_call_idempotency_key(task: AgentTask, call: IdentifiedToolCall) -> str:
    """32 hexadecimal digits: as long as the shortest limit that payment providers set for such keys allows."""
    name = json.dumps([task.tenant_id, task.task_id, call.tool, call.args_hash.hex(), call.occurrence])
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _check_arguments_are_storable(tool: CallableTool, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a gated call: what people are shown is what runs, so it must be what is stored.

    Raises:
        Invalid: a number among them is NaN or an infinity, which no limit holds back.
    """
    if place := first_infinite(arguments):
        raise Invalid(f"tool {tool.name}: {place[1:]} is NaN or an infinity, and people can only approve a number")
    return tool.validated_arguments(_to_storable_arguments(arguments))


def _hash_arguments(arguments: dict[str, Any]) -> bytes:
    # Escapes what UTF-8 can't hold, so that any arguments have a hash, and others another one.
    canonical = json.dumps(_to_plain_arguments(arguments), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def _to_plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = to_builtins(dict(arguments))
    return plain


def _to_storable_arguments(arguments: Mapping[str, Any]) -> JsonObject:
    kept: JsonObject = to_storable(_to_plain_arguments(arguments)).value
    return kept


def _call_end_of_result(value: Any, call: _PreparedCall) -> ToolCallEnd:
    try:
        kept = to_storable(value)
        size = len(to_json(kept.value))
    except (TypeError, Invalid) as error:
        raise ToolResultNotStored(f"tool {call.tool.name} returned what can't be stored: {error}") from error
    if size > MAX_STORED_RESULT_BYTES:
        raise ToolResultNotStored(
            f"tool {call.tool.name} returned {size} bytes, {MAX_STORED_RESULT_BYTES} can be stored"
        )
    return ToolCallEnd(outcome="returned", result=kept.value, escaped=kept.escaped)


def _call_end_of_error(error: BaseException) -> ToolCallEnd:
    did_nothing = isinstance(error, (*TOOL_REFUSAL_ERRORS, ToolNotCalled)) and not isinstance(
        error, ToolResultNotStored
    )
    return ToolCallEnd(outcome="refused" if did_nothing else "raised", error=describe_exception(error))
