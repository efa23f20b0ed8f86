"""A connected worker, the runs of tasks that it has, and the calls of tools that it is asked to make."""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping
from contextvars import Context, copy_context
from typing import Any, TypeVar

from flotilla.agent.chat_api import ChatApi
from flotilla.agent.context import TaskContext
from flotilla.agent.sidecar.failures import RemoteFailure
from flotilla.agent.sidecar.offers import AgentOffer
from flotilla.agent.wrapped_errors import TaskCancelled
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.errors import NotFound
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.values import to_storable

T = TypeVar("T")
_RUN_KEY_BYTES = 16
_UNKNOWN_CALL_MESSAGE = "no such call, or it is over"


class WorkerToolCall:
    """A call of a tool that the worker makes."""

    def __init__(self) -> None:
        self.context = copy_context()
        """That of the call, in which calls that its tool makes are made."""
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class WorkerTaskRun:
    """One run of a task, as long as the worker works on it."""

    def __init__(self, ctx: TaskContext) -> None:
        self.key = secrets.token_urlsafe(_RUN_KEY_BYTES)
        """Names the run in requests; nobody else knows it."""
        self.ctx = ctx
        self.ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._context = copy_context()
        self._calls: dict[str, WorkerToolCall] = {}
        self._work: set[asyncio.Task[Any]] = set()
        self._chat: ChatApi | None = None

    async def do_within_task(self, work: Coroutine[Any, Any, T], call: str | None = None) -> T:
        """Do `work` as the task's own: it holds the task, and is cancelled when the run ends. `call` is the call of a
        tool that it is part of.

        Raises:
            NotFound: there is no such call, or it is over.
            TaskCancelled: the run has ended.
        """
        context = self._context if call is None else self._find_call(call).context
        task = asyncio.create_task(work, name=f"run {self.ctx.task_id}", context=_copy_of_context(context))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:  # who asked is gone
            task.cancel()
            raise
        if task.cancelled():
            raise TaskCancelled("the run is over")
        return task.result()

    @property
    def chat_api(self) -> ChatApi:
        """OpenAI's API of this run.

        Raises:
            ConfigurationError: the agent was started without a model.
        """
        if self._chat is None:
            self._chat = self.ctx.chat_api()
        return self._chat

    def begin_tool_call(self) -> tuple[str, WorkerToolCall]:
        """Return a new call and its name."""
        name, call = secrets.token_urlsafe(_RUN_KEY_BYTES), WorkerToolCall()
        self._calls[name] = call
        call.answer.add_done_callback(lambda _: self._calls.pop(name, None))
        return name, call

    def store_tool_call_answer(self, name: str, returned: Any, failure: RemoteFailure | None) -> None:
        """Note what came of a call.

        Raises:
            NotFound: there is no such call, or it is over.
        """
        answer = self._find_call(name).answer
        if answer.done():
            raise NotFound(_UNKNOWN_CALL_MESSAGE)
        if failure is None:
            answer.set_result(returned)
        else:
            answer.set_exception(failure.to_exception())

    def end_run(self, result: dict[str, Any] | None, failure: RemoteFailure | None) -> None:
        """Note how the function ended.

        Raises:
            NotFound: the run is over.
        """
        if self.ended.done():
            raise NotFound("the run is over")
        if failure is None:
            self.ended.set_result(result if result is not None else {})
        else:
            self.ended.set_exception(failure.to_exception())

    def close(self) -> None:
        """End everything that goes on for the run. A call that has no answer is one of which nobody knows."""
        self.ended.cancel()
        for task in list(self._work):
            task.cancel()

    def _find_call(self, name: str) -> WorkerToolCall:
        try:
            return self._calls[name]
        except KeyError:
            raise NotFound(_UNKNOWN_CALL_MESSAGE) from None


class ConnectedWorker:
    """The process that has the function, while it is connected."""

    def __init__(self, offer: AgentOffer) -> None:
        """Raise ConfigurationError where `offer` is outside what an agent may have."""
        self.agent = offer.make_agent(self.run_task_function)
        self.tools = offer.make_toolbox(self.run_tool)
        self.leaving = asyncio.Event()
        """It takes no new tasks; those it has go on."""
        self.gone = asyncio.Event()
        self._lines: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        self._runs: dict[str, WorkerTaskRun] = {}

    async def next_line_for_worker(self, within_s: float) -> JsonObject | None:
        """Return the next line for the worker, `{}` where there is none `within_s`, None after the last one."""
        try:
            async with asyncio.timeout(within_s):
                return await self._lines.get()
        except TimeoutError:
            return {}

    async def run_task_function(self, ctx: TaskContext, data: dict[str, Any]) -> dict[str, Any]:
        """The agent's function: have the worker run it.

        Raises:
            asyncio.CancelledError: the worker is gone; the task is delivered again.
        """
        run = WorkerTaskRun(ctx)
        if self.gone.is_set():
            run.close()
        self._runs[run.key] = run
        task = {**to_builtins(ctx.task), "secret": None, "live": None, "reply_to": None, "input": data}
        self._lines.put_nowait({"run": run.key, "task": task, "timeout_s": ctx.task.timeout_s or self.agent.timeout_s})
        try:
            return await run.ended
        finally:
            del self._runs[run.key]
            run.close()
            self._lines.put_nowait({"over": run.key})

    async def run_tool(self, ctx: object, tool: str, arguments: Mapping[str, Any], key: str) -> Any:
        """Have the worker run a tool."""
        run = next((one for one in self._runs.values() if one.ctx is ctx), None)
        if run is None:
            raise NotFound("the run is over")
        name, call = run.begin_tool_call()
        plain = to_storable(dict(arguments)).value
        self._lines.put_nowait({"call": name, "run": run.key, "tool": tool, "arguments": plain, "key": key})
        try:
            return await call.answer
        finally:
            call.answer.cancel()

    def find_run(self, key: str) -> WorkerTaskRun:
        """Return the run that `key` names.

        Raises:
            NotFound: it is over, or another worker's.
        """
        try:
            return self._runs[key]
        except KeyError:
            raise NotFound("the run is over") from None

    def mark_lost(self) -> None:
        """Note that the process is gone: what it had is delivered again."""
        self.gone.set()
        for run in list(self._runs.values()):
            run.close()

    def end_task_stream(self) -> None:
        """End its stream: everything is done."""
        self._lines.put_nowait(None)


def _copy_of_context(context: Context) -> Context:
    return context.run(copy_context)
