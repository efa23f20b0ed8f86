"""What a worker says about its agent, and the agent that the SDK makes of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from flotilla.agent.agent import Agent
from flotilla.agent.context import TaskContext
from flotilla.agent.tools import AgentToolBox
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import is_valid_id
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.tools import OnUnknown, ToolOptions
from flotilla.contracts.typed import Codec

JsonSchema: TypeAlias = dict[str, Any]
TaskWork: TypeAlias = Callable[[TaskContext, dict[str, Any]], Awaitable[dict[str, Any]]]
RunTool: TypeAlias = Callable[[object, str, Mapping[str, Any], str], Awaitable[Any]]
"""Has the worker run a tool: the context of the task, the tool's name, its arguments, the call's idempotency key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOffer:
    """A tool that the worker has."""

    name: str
    description: str = ""
    input_schema: JsonSchema = field(default_factory=dict)
    approval: RiskLevel | None = None
    repeatable: bool = False
    on_unknown: OnUnknown | None = None

    def __post_init__(self) -> None:
        if not is_valid_id(self.name):
            raise ConfigurationError(f"tool name {self.name!r}: use letters, digits and . _ : -")
        if self.repeatable and (self.approval or self.on_unknown):
            raise ConfigurationError(
                f"tool {self.name}: a repeatable tool is simply called again: leave out approval and on_unknown"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOffer:
    """An agent whose function the worker has; the members are those of `Agent`."""

    name: str
    version: str = "1"
    input_schema: JsonSchema = field(default_factory=dict)
    output_schema: JsonSchema = field(default_factory=dict)
    concurrency: int = 8
    timeout_s: float = 600.0
    announces: str | None = None
    mcp: list[str] = field(default_factory=list)
    tools: list[ToolOffer] = field(default_factory=list)

    def make_agent(self, work: TaskWork) -> Agent:
        """Return the agent that does `work`.

        Raises:
            ConfigurationError: a member is outside what an agent may have.
        """
        if self.concurrency < 1:
            raise ConfigurationError(f"agent {self.name}: concurrency is {self.concurrency}; use at least 1")
        agent = _RemoteAgent(self, work)
        agent.gated.update({tool.name: tool.approval for tool in self.tools if tool.approval is not None})
        return agent

    def make_toolbox(self, run: RunTool) -> AgentToolBox:
        """Return the tools, which `run` runs."""
        return AgentToolBox({}).with_added_tools({tool.name: RemoteTool(tool, run) for tool in self.tools})


class _RemoteAgent(Agent):
    """An agent that knows its schemas and no types."""

    def __init__(self, offer: AgentOffer, work: TaskWork) -> None:
        super().__init__(
            offer.name,
            version=offer.version,
            concurrency=offer.concurrency,
            timeout_s=offer.timeout_s,
            announces=offer.announces,
            mcp=offer.mcp,
        )
        self._function = work
        self._input = _SchemaOnlyType(offer.input_schema, f"input of {offer.name}")
        self._output = _SchemaOnlyType(offer.output_schema, f"result of {offer.name}")


class _SchemaOnlyType(Codec[dict[str, Any]]):
    """JSON objects as they are: the worker checks them against the schema that it gave."""

    def __init__(self, schema: JsonSchema, where: str) -> None:
        super().__init__(dict, where)
        self._schema = schema

    def schema(self) -> dict[str, Any]:
        """The worker's schema."""
        return self._schema


class RemoteTool:
    """A tool whose function the worker has."""

    def __init__(self, offer: ToolOffer, run: RunTool) -> None:
        self.name = offer.name
        self.description = offer.description
        self.options = ToolOptions(repeatable=offer.repeatable, on_unknown=offer.on_unknown)
        self._schema = offer.input_schema
        self._run = run

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, as the worker gave it."""
        return self._schema

    def validated_arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Return `given` as it is: the worker has checked it, and does so again before the tool runs."""
        return dict(given)

    def decode_result(self, value: Any) -> Any:
        """A stored result as it is."""
        return value

    async def __call__(self, ctx: object, arguments: Mapping[str, Any], key: str) -> Any:
        """Have the worker run it."""
        return await self._run(ctx, self.name, arguments, key)
