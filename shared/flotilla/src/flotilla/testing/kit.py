"""Runs one agent in process, without any server, and shows everything that it did.

The task function runs in the same execution as in production: typed input and output, tools with checked arguments,
recorded events, timeouts and failures. Only what stands around it is in memory: the live feed, the session's turns,
the model. Effects given to `ctx.in_transaction` are counted, not run: test those against a database.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from flotilla.agent.agent import Agent
from flotilla.agent.context import TaskContext
from flotilla.agent.execution import run_task_function
from flotilla.agent.ports import IdentifiedToolCall, StartedToolCall, ToolCallEnd, ToolCallHistory
from flotilla.agent.tools import AgentToolBox, ToolFunction
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.ids import new_id
from flotilla.contracts.session_events import AgentStateEvent, SessionEventKind
from flotilla.contracts.tasks import AgentTask, Failure, Replay, Turn
from flotilla.llm import Completion, CompletionRequest, LanguageModel, OnToken

Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun(Generic[Out]):
    """What a task did."""

    status: Literal["done", "failed", "cancelled"]
    output: Out | None
    """The result as the author's type, after the trip through JSON."""
    failure: Failure | None
    events: list[AgentStateEvent]
    """The session events in the order of the log."""
    progress: list[str]
    tokens: str
    """The text that was shown live, in one piece."""
    effects: int
    """How many effects wait for the transaction."""

    @property
    def kinds(self) -> list[SessionEventKind]:
        """The kinds of the events, in order."""
        return [event.kind for event in self.events]

    @property
    def result(self) -> Out:
        """The output of a task that must have succeeded.

        Raises:
            AssertionError: it did not; the message says why.
        """
        assert self.output is not None, f"the task {self.status}: {self.failure}"  # noqa: S101 - this is a test kit
        return self.output


async def run_task(
    agent: Agent,
    task: object,
    *,
    tools: Mapping[str, ToolFunction] | None = None,
    model: LanguageModel | None = None,
    turns: Sequence[Turn] = (),
    cancelled: bool = False,
    attempt: int = 1,
    replay: Replay | None = None,
) -> TaskRun[Any]:
    """Run `agent` once on `task` (its input, as an object or as plain data).

    `tools` are added to the agent's own or stand in for them. `turns` are the session's earlier questions and
    answers. With `cancelled` the task finds itself cancelled as soon as it looks. With `replay` it is a recorded run
    that is done again: tools answer from the recording.
    """
    given = to_builtins(task)
    request = AgentTask(
        task_id="task-1",
        agent=agent.name,
        tenant_id="default",
        session_id="session-1",
        run_id="run-1",
        user_id="alice",
        input=given,
        attempt=attempt,
        replay=replay,
    )
    live = _MemoryLive(cancelled=cancelled)
    ctx = TaskContext(
        agent.name,
        request,
        tools=AgentToolBox({**agent.tools, **(tools or {})}),
        live=live,
        session=_MemorySession(turns),
        model=_MemoryCalls(model) if model else None,
        calls=_MemoryToolCalls(),
        make_id=new_id,
    )
    outcome = await run_task_function(agent, ctx, given)
    return TaskRun(
        status=outcome.status,  # type: ignore[arg-type]
        output=None if outcome.result is None else agent.output.decode(outcome.result),
        failure=outcome.failure,
        events=outcome.events,
        progress=live.progressed,
        tokens="".join(live.tokens),
        effects=len(outcome.effects),
    )


@dataclass(slots=True)
class _MemoryLive:
    cancelled: bool
    progressed: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    async def report_progress(self, text: str) -> None:
        self.progressed.append(text)

    async def show_text(self, text: str) -> None:
        self.tokens.append(text)

    async def show_step_status(self, status: str) -> None:
        """Nobody watches."""

    async def void_shown_text(self) -> None:
        self.tokens.clear()

    async def flush_text(self) -> None:
        """Nothing is under way."""

    async def is_cancelled(self) -> bool:
        return self.cancelled


class _MemorySession:
    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = list(turns)

    async def turns(self, limit: int = 10) -> list[Turn]:
        return self._turns[-limit:]


class _MemoryToolCalls:
    """One run has no earlier one to learn from."""

    async def load_call_history(self, _call: IdentifiedToolCall) -> ToolCallHistory:
        return ToolCallHistory()

    async def begin_call(
        self, call: IdentifiedToolCall, start_no: int, call_id: str, _approval_id: str | None
    ) -> StartedToolCall:
        return StartedToolCall(call=call, start_no=start_no, call_id=call_id)

    def hold_call_claim(self, _begun: StartedToolCall) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def store_call_end(self, _begun: StartedToolCall, ended: ToolCallEnd) -> ToolCallEnd:
        return ended


class _MemoryCalls:
    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return self._model.name

    async def complete(self, request: CompletionRequest, on_token: OnToken) -> Completion:
        return await self._model.complete(request, on_token)
