"""`ctx.tools_for(...)`: the agent's tools as those of a framework. Each call is `ctx.tool`, with all that it promises.

What a tool returns reaches the model as text: a text as it is, anything else as JSON. A refusal, which says that
nothing was done, is text for the model, too, so that it can correct its arguments; any other error ends the run.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from flotilla.agent.tool_runner import TOOL_REFUSAL_ERRORS, ToolOutcomeUnknown, ToolResultNotStored
from flotilla.agent.tools import AgentToolBox, ListedTool
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.values import to_storable

Framework: TypeAlias = Literal["openai-agents", "pydantic-ai", "langgraph"]
ToolInvocation: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[str]]


class ToolCaller(Protocol):
    """What the tools call: `TaskContext`."""

    @property
    def tools(self) -> AgentToolBox:
        """The allowed ones."""

    async def tool(self, name: str, /, **arguments: Any) -> Any:
        """Calls one."""


def tools_for(ctx: ToolCaller, framework: str) -> list[Any]:
    """Return the tools of `ctx` as those of `framework`.

    Raises:
        ConfigurationError: there is no such framework, or it is not installed.
    """
    make = _TOOL_CONVERTERS.get(framework)
    if make is None:
        raise ConfigurationError(f"ctx.tools_for({framework!r}): use one of {', '.join(_TOOL_CONVERTERS)}")
    try:
        return [make(ctx.tools[name], _make_tool_invocation(ctx, name)) for name in ctx.tools.tool_names]
    except ImportError as error:
        raise ConfigurationError(
            f"ctx.tools_for({framework!r}) needs the package {error.name}: add it to the agent's requirements"
        ) from error


def tool_arguments_schema(tool: ListedTool) -> dict[str, Any]:
    """Return the JSON schema of a tool's arguments with the object itself at the top, as frameworks want it."""
    schema = dict(tool.schema())
    definitions = dict(schema.pop("$defs", {}))
    top = definitions.pop(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    return {**top, "$defs": definitions} if definitions else top


def _make_tool_invocation(ctx: ToolCaller, name: str) -> ToolInvocation:
    async def call(arguments: Mapping[str, Any]) -> str:
        try:
            returned = await ctx.tool(name, **arguments)
        except (ToolOutcomeUnknown, ToolResultNotStored):
            raise
        except TOOL_REFUSAL_ERRORS as error:
            return f"Error: {error}"
        return returned if isinstance(returned, str) else _to_json_text(returned)

    return call


def _to_json_text(returned: Any) -> str:
    return json.dumps(to_storable(to_builtins(returned)).value, ensure_ascii=False)


def _to_openai_agents_tool(tool: ListedTool, call: ToolInvocation) -> Any:
    from agents import FunctionTool

    async def invoke(_context: Any, arguments: str) -> str:
        try:
            given = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            return f"Error: the arguments are not JSON: {error}"
        return await call(given) if isinstance(given, dict) else "Error: the arguments are a JSON object"

    return FunctionTool(
        name=tool.name,
        description=tool.description,
        params_json_schema=tool_arguments_schema(tool),
        on_invoke_tool=invoke,
        strict_json_schema=False,
    )


def _to_pydantic_ai_tool(tool: ListedTool, call: ToolInvocation) -> Any:
    from pydantic_ai import Tool as PydanticTool

    async def invoke(**arguments: Any) -> str:
        return await call(arguments)

    return PydanticTool.from_schema(invoke, tool.name, tool.description, tool_arguments_schema(tool))


def _to_langgraph_tool(tool: ListedTool, call: ToolInvocation) -> Any:
    from langchain_core.tools import StructuredTool

    async def invoke(**arguments: Any) -> str:
        return await call(arguments)

    return StructuredTool(
        name=tool.name,
        description=tool.description or tool.name,
        args_schema=tool_arguments_schema(tool),
        coroutine=invoke,
    )


_TOOL_CONVERTERS: dict[str, Callable[[ListedTool, ToolInvocation], Any]] = {
    "openai-agents": _to_openai_agents_tool,
    "pydantic-ai": _to_pydantic_ai_tool,
    "langgraph": _to_langgraph_tool,
}
