"""What an agent is: a name, one task function with typed input and output, and the tools it may use."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, get_type_hints, overload

from flotilla.agent.context import TaskContext
from flotilla.agent.tools import ToolFunction
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import agent_group, is_valid_id, task_stream
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.tools import OnUnknown, ToolOptions, with_tool_options
from flotilla.contracts.typed import Codec, is_object_type

In = TypeVar("In")
Out = TypeVar("Out")
TF = TypeVar("TF", bound=ToolFunction)
_TASK_PARAMETER_COUNT = 2
MAX_TASK_TIMEOUT_S = 7 * 86_400


class Agent:
    """An agent.

        agent = Agent("research", version="1")

        @agent.task
        async def research(ctx: TaskContext, task: ResearchTask) -> ResearchResult: ...

    `concurrency` is how many tasks one process has in hand, `timeout_s` how long one may take (unless the task says how
    long), `announces` the type of the event that tells everyone on `flotilla.events`, `mcp` the MCP servers or single
    tools whose tools, as far as the tenant allows them, are the agent's, too: `mcp__<server>__<tool>`. `replayable`
    says that its function acts on the world through `ctx` alone (tools, effects, model), which a replay blocks.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "1",
        concurrency: int = 8,
        timeout_s: float = 600.0,
        announces: str | None = None,
        gates_calls: bool = False,
        mcp: Sequence[str] = (),
        replayable: bool = False,
    ) -> None:
        if not is_valid_id(name):
            raise ConfigurationError(f"agent name {name!r}: use letters, digits and . _ : -")
        if not is_valid_id(version):
            raise ConfigurationError(f"agent {name}: version {version!r}: use letters, digits and . _ : -")
        if not 0 < timeout_s <= MAX_TASK_TIMEOUT_S:
            raise ConfigurationError(f"agent {name}: timeout_s is {timeout_s}; use more than 0 and at most a week")
        self.name = name
        self.version = version
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.mcp = tuple(mcp)
        """MCP servers and tools (`<server>.<tool>`) whose allowed tools are among the agent's."""
        self.gates_calls = gates_calls
        """Whether its function says which calls are gated (`ctx.gated.add`), beside those of `gated`."""
        self.replayable = replayable
        """Whether recorded runs may be done again with it."""
        self.announces = announces or f"flotilla.{name}.completed.v1"
        self.tools: dict[str, ToolFunction] = {}
        self.gated: dict[str, RiskLevel] = {}
        """Tools that need an approval, with their least risk."""
        self._function: Callable[[TaskContext, Any], Awaitable[Any]] | None = None
        self._input: Codec[Any] | None = None
        self._output: Codec[Any] | None = None

    @property
    def stream(self) -> str:
        """Where its tasks come from."""
        return task_stream(self.name)

    @property
    def version_stream(self) -> str:
        """Where the tasks come from that are routed to its version."""
        return task_stream(self.name, self.version)

    @property
    def group(self) -> str:
        """Its consumer group."""
        return agent_group(self.name)

    def task(
        self, function: Callable[[TaskContext, In], Awaitable[Out]]
    ) -> Callable[[TaskContext, In], Awaitable[Out]]:
        """Make `function` the agent's work. Decorator; once per agent.

        Raises:
            ConfigurationError: a second task, or annotations that do not say what goes in and out.
        """
        if self._function is not None:
            raise ConfigurationError(f"agent {self.name} has a task already: write a second agent for {function!r}")
        hints = get_type_hints(function)
        parameters = list(inspect.signature(function).parameters)
        if len(parameters) != _TASK_PARAMETER_COUNT or not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"agent {self.name}: a task is `async def task(ctx: TaskContext, task: Input)`")
        given, made = hints.get(parameters[1]), hints.get("return")
        if not is_object_type(given) or not is_object_type(made):
            raise ConfigurationError(
                f"agent {self.name}: annotate input and output with a dataclass, struct or model, "
                f"not {given} and {made}"
            )
        self._input = Codec(given, f"input of {self.name}")  # type: ignore[arg-type]
        self._output = Codec(made, f"result of {self.name}")  # type: ignore[arg-type]
        self._function = function
        return function

    @overload
    def tool(self, function: TF) -> TF: ...

    @overload
    def tool(
        self, *, approval: RiskLevel | None = None, repeatable: bool = False, on_unknown: OnUnknown | None = None
    ) -> Callable[[TF], TF]: ...

    def tool(
        self,
        function: TF | None = None,
        *,
        approval: RiskLevel | None = None,
        repeatable: bool = False,
        on_unknown: OnUnknown | None = None,
    ) -> TF | Callable[[TF], TF]:
        """Put a function on the agent's list of tools, under its own name. Decorator, with or without arguments.

        `@agent.tool(approval="high")` gates it: a call pauses the task, with nothing held, until policy's people
        have approved exactly its arguments. `approval` is the least risk; policy, which knows the tool as
        `<agent>.<tool>`, can raise it. The task then runs again from its start.

        What a tool returned is stored before it is used, and a later run of the task gets it from the store. With
        `repeatable=True` the tool runs again instead: for tools that only read. `on_unknown` says what happens to a
        call that was begun and gave no answer: run it `again` (the default; its `IdempotencyKey` is the same), let it
        `fail`, or `ask` people whether to run it again (the default of a gated tool).

        Raises:
            ConfigurationError: a repeatable tool that is gated, or that says what to do with unknown calls.
        """
        if repeatable and (approval or on_unknown):
            raise ConfigurationError("a repeatable tool is simply called again: leave out approval and on_unknown")
        options = ToolOptions(repeatable=repeatable, on_unknown=on_unknown)

        def add(chosen: TF) -> TF:
            self.tools[chosen.__name__] = with_tool_options(chosen, options) if options != ToolOptions() else chosen
            if approval is not None:
                self.gated[chosen.__name__] = approval
            return chosen

        return add if function is None else add(function)

    @property
    def function(self) -> Callable[[TaskContext, Any], Awaitable[Any]]:
        """The task function.

        Raises:
            ConfigurationError: there is none.
        """
        if self._function is None:
            raise ConfigurationError(f"agent {self.name} has no task: decorate a function with @agent.task")
        return self._function

    @property
    def input(self) -> Codec[Any]:
        """Convert and describe the input."""
        if self._input is None:
            raise ConfigurationError(f"agent {self.name} has no task: decorate a function with @agent.task")
        return self._input

    @property
    def output(self) -> Codec[Any]:
        """Convert and describe the result."""
        if self._output is None:
            raise ConfigurationError(f"agent {self.name} has no task: decorate a function with @agent.task")
        return self._output
