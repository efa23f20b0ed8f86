"""What a task function gets: its task, tools, the model, recording, progress, the session so far."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from flotilla.agent.chat_api import ChatApi
from flotilla.agent.framework_tools import Framework, tools_for
from flotilla.agent.gates import ApprovalPending, GatedToolCalls
from flotilla.agent.loopback import serve_model_api
from flotilla.agent.mcp_tools import McpCallOutcome
from flotilla.agent.ports import LiveOutput, McpCaller, SessionHistory, TaskModel, ToolCallStore
from flotilla.agent.recorded_run import REPLAY_ENDED, RecordedRun
from flotilla.agent.recording import TaskEventRecorder
from flotilla.agent.tool_runner import ToolRunner
from flotilla.agent.tools import AgentToolBox, CallableTool
from flotilla.agent.wrapped_errors import TaskCancelled
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.ids import IdMaker
from flotilla.contracts.session_events import SessionEventData, SessionEventKind, StateChange
from flotilla.contracts.tasks import AgentTask
from flotilla.contracts.values import to_storable_text
from flotilla.llm import Completion, CompletionRequest, OnToken
from flotilla.postgres import Connection

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from openai import AsyncOpenAI

Effect: TypeAlias = Callable[[Connection], Awaitable[object]]
"""Writes on the connection it gets, whose transaction belongs to the caller and acts for the task's tenant."""

_CANCEL_CHECK_INTERVAL_S = 0.5


class TaskContext:
    """One task in hand. Everything recorded here is written in the one transaction that makes the task done."""

    def __init__(
        self,
        agent: str,
        task: AgentTask,
        *,
        tools: AgentToolBox,
        live: LiveOutput,
        session: SessionHistory,
        model: TaskModel | None,
        calls: ToolCallStore,
        make_id: IdMaker,
        gated: GatedToolCalls | None = None,
        mcp_answers: Mapping[str, McpCallOutcome] | None = None,
        mcp_caller: McpCaller | None = None,
    ) -> None:
        self.agent = agent
        self.task = task
        self.task_id = task.task_id
        self.tenant_id = task.tenant_id
        self.session_id = task.session_id
        self.run_id = task.run_id
        self.user_id = task.user_id
        self.attempt = task.attempt
        """The workflow's try, from 1; a redelivery by the bus is the same try."""
        self.session = session
        """`await ctx.session.turns()`: the questions and answers before this task."""
        self.tools = tools
        """The list of allowed tools, with names, descriptions and argument schemas."""
        self.gated = gated or GatedToolCalls(agent, task.task_id, {})
        """Which calls wait for people."""
        self.effects: list[Effect] = []
        self.cancelled = False
        self._live = live
        self._model = model
        self._recorder = TaskEventRecorder(agent, task)
        self._recording = RecordedRun(task.replay, agent) if task.replay else None
        self._runner = ToolRunner(
            task,
            calls,
            self.gated,
            self._recorder,
            make_id,
            mcp_answers=mcp_answers,
            mcp_caller=mcp_caller,
            recording=self._recording,
        )
        self._looked_for_cancel = time.monotonic()
        self._apis: list[ChatApi] = []

    @property
    def recorded(self) -> TaskEventRecorder:
        """The session events so far."""
        return self._recorder

    async def tool(self, name: str, /, **arguments: Any) -> Any:
        """Call a tool of the allow-list; recorded as `tool_call` and `tool_result`. Its result is stored before it is
        used, as JSON, so that a second run of this task gets the same one without calling it again; a tool that is
        marked as repeatable is called again instead.

        Raises:
            Forbidden: the tool is not on the list.
            Invalid: an argument is missing, unknown or of the wrong type.
            ApprovalPending: the tool is gated and people have not decided: the task pauses here.
            ApprovalRefused: the tool is gated and people said no, or nothing in time.
            ToolOutcomeUnknown: an earlier run began this call and got no answer, and it is not to run again.
        """
        return await self.call(self.tools[name], arguments)

    async def call(self, tool: CallableTool, arguments: Mapping[str, Any]) -> Any:
        """Call a tool that need not be on the list, with all that `ctx.tool` promises.

        Raises:
            As `ctx.tool`, but for Forbidden.
        """
        return await self._runner.run_tool(self, tool, arguments)

    async def llm(self, request: CompletionRequest, *, on_token: OnToken | None = None) -> Completion:
        """Ask the language model; the answer is stored before it is used, so that a second run of this task does
        not buy it again. Pass `on_token=ctx.emit_token` to show the answer while it is written.

        Raises:
            ConfigurationError: the agent was started without a model.
            ModelRefused, ModelUnavailable, ModelTimedOut: as the model says.
            TaskCancelled: the task was cancelled meanwhile.
        """
        model = self._get_language_model()

        async def between_chunks(text: str) -> None:
            if on_token is not None:
                await on_token(text)
            await self._raise_if_cancelled_when_due()

        answer = await model.complete(request, between_chunks)
        await self._live.flush_text()
        return answer

    def openai(self, *, show: bool = True) -> "AsyncOpenAI":
        """Return OpenAI's client for a framework: its chat completions are `ctx.llm`, so each answer is stored before
        it is used. Unless `show` is False, the text of streamed answers reaches those who watch the run, too.

        Raises:
            ConfigurationError: the package `openai` is missing, or the agent was started without a model.
        """
        with _name_missing_extra():
            from flotilla.agent.openai_client import make_openai_client
        return make_openai_client(self.chat_api(show=show))

    def openai_http_client(self, *, show: bool = True) -> "AsyncClient":
        """Return the HTTP client below `ctx.openai()`, for frameworks that make OpenAI's client themselves.

        Raises:
            ConfigurationError: as `ctx.openai()`.
        """
        with _name_missing_extra():
            from flotilla.agent.openai_client import make_openai_http_client
        return make_openai_http_client(self.chat_api(show=show))

    @asynccontextmanager
    async def model_endpoint(self, *, show: bool = True) -> AsyncIterator[dict[str, str]]:
        """Serve `ctx.openai()` over HTTP on loopback, as long as the block: for a child process in another language.
        Gives the variables to start it with: FLOTILLA_MODEL_URL and FLOTILLA_MODEL_KEY, and the same as OPENAI_BASE_URL
        and OPENAI_API_KEY.

        Raises:
            ConfigurationError: the agent was started without a model.
        """
        async with serve_model_api(self.chat_api(show=show)) as environment:
            yield environment

    def chat_api(self, *, show: bool = True) -> ChatApi:
        """Return what is behind `ctx.openai()`: OpenAI's chat completions without a connection.

        Raises:
            ConfigurationError: the agent was started without a model.
        """
        self._get_language_model()
        self._apis.append(ChatApi(self, shows=show))
        return self._apis[-1]

    def tools_for(self, framework: Framework) -> list[Any]:
        """Return the agent's tools as those of `framework`. Its calls are `ctx.tool`; what a tool returns, or why it
        refuses, reaches the model as text.

        Raises:
            ConfigurationError: the framework is none of those that are known, or not installed.
        """
        return tools_for(self, framework)

    @property
    def model_name(self) -> str:
        """The model that answers.

        Raises:
            ConfigurationError: the agent was started without one.
        """
        return self._get_language_model().name

    def raise_if_approval_pending(self) -> None:
        """Go no further once a tool waits for people, even if a framework has caught that.

        Raises:
            ApprovalPending: one does.
        """
        if self.gated.must_pause:
            raise ApprovalPending(f"task {self.task_id} waits for people, or for a call of an MCP tool")

    async def close(self) -> None:
        """End what goes on in the background."""
        for api in self._apis:
            await api.close()

    def record(self, kind: SessionEventKind, data: SessionEventData | dict[str, Any]) -> None:
        """Add an event to the session's log, once the task is done (or has failed).

        Raises:
            Invalid: `data` is not what events of `kind` hold.
        """
        self._recorder.record_event(kind, data)

    def in_transaction(self, effect: Effect) -> None:
        """Has `effect(connection)` run in the transaction that makes the task done: it happens exactly once. In a
        replay it does not happen."""
        if self._recording is not None:
            self._recording.count_blocked_effect()
        else:
            self.effects.append(effect)

    def prompt(self, own: str) -> str:
        """Return the agent's prompt: `own`, or what a replay tries in its place."""
        return own if self._recording is None else self._recording.candidate_prompt_or(own)

    def record_replay_differences(self, *, succeeded: bool) -> None:
        """Record how a replay differed from its recording; does nothing in any other task.

        Raises:
            Refused: the task `succeeded` without the prompt that it was to use.
        """
        if self._recording is None:
            return
        self.record("state_change", StateChange(change=REPLAY_ENDED, details=self._recording.summarize_differences()))
        if succeeded:
            self._recording.check_prompt_used()

    async def progress(self, text: str) -> None:
        """Tell anyone who waits that the task goes on, and look whether it is still wanted.

        Raises:
            TaskCancelled: it is not.
        """
        await self._live.report_progress(to_storable_text(text))
        await self._raise_if_cancelled()

    async def emit_token(self, text: str) -> None:
        """Show a piece of the answer to clients that watch the run, and look, twice a second, whether it is wanted.

        Raises:
            TaskCancelled: it is not.
        """
        await self._live.show_text(to_storable_text(text))
        await self._raise_if_cancelled_when_due()

    async def discard_tokens(self) -> None:
        """Void what was shown of this task so far: what follows replaces it."""
        await self._live.void_shown_text()

    def cancel(self) -> None:
        """Mark the task as no longer wanted, so that cancelling its function counts as that."""
        self.cancelled = True

    def _get_language_model(self) -> TaskModel:
        if self._model is None:
            raise ConfigurationError(
                f"agent {self.agent} has no language model: make its settings LlmSettings or give run_agent a model"
            )
        return self._model

    async def _raise_if_cancelled_when_due(self) -> None:
        if time.monotonic() - self._looked_for_cancel > _CANCEL_CHECK_INTERVAL_S:
            await self._raise_if_cancelled()

    async def _raise_if_cancelled(self) -> None:
        self._looked_for_cancel = time.monotonic()
        if await self._live.is_cancelled():
            raise TaskCancelled(self.task_id)


@contextmanager
def _name_missing_extra() -> Iterator[None]:
    """Say which extra a missing package belongs to."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"ctx.openai() needs the package {error.name}: install flotilla-fleet[llm] (`make lock` pins it)"
        ) from error
