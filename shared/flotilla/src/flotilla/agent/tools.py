"""Tools: an allow-list of typed functions. A call with wrong arguments never reaches the function."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, get_type_hints

import msgspec

from flotilla.contracts.errors import ConfigurationError, Forbidden, Invalid
from flotilla.contracts.tools import IdempotencyKey, ToolOptions, tool_options

ToolFunction: TypeAlias = Callable[..., Awaitable[Any]]
"""An async function whose parameters are annotated. A first parameter `ctx` receives the TaskContext, one of the type
`IdempotencyKey` the key of the call."""

CONTEXT_PARAMETER = "ctx"


class CallableTool(Protocol):
    """What `ctx.call` runs: a `Tool`, or one whose arguments and effect are described elsewhere."""

    @property
    def name(self) -> str:
        """As events, policy and the store of calls name it."""

    @property
    def description(self) -> str:
        """What people are shown who decide about a call."""

    @property
    def options(self) -> ToolOptions:
        """How it may be called again."""

    def validated_arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Check `given`; raises Invalid."""

    def decode_result(self, value: Any) -> Any:
        """A stored result as the caller gets it."""

    async def __call__(self, ctx: object, arguments: Mapping[str, Any], key: str) -> Any:
        """Run it with checked arguments under the idempotency key `key`."""


class ListedTool(CallableTool, Protocol):
    """A tool on an agent's list, which models can read."""

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""


class Tool:
    """One function that an agent may call by name."""

    def __init__(self, name: str, function: ToolFunction) -> None:
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"tool {name} must be an async function")
        self.name = name
        self.description = inspect.getdoc(function) or ""
        self.options = tool_options(function)
        self._function = function
        parameters = inspect.signature(function).parameters
        self._takes_context = next(iter(parameters), None) == CONTEXT_PARAMETER
        hints = get_type_hints(function)
        self._key_parameter = next((known for known, kind in hints.items() if kind is IdempotencyKey), None)
        self._returns = hints.get("return", Any)
        self._arguments = _make_arguments_type(name, function)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, as language models want it."""
        return msgspec.json.schema(self._arguments)

    def validated_arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """`given` as the types that the function asks for.

        Raises:
            Invalid: one is missing, unknown or of the wrong type.
        """
        try:
            checked = msgspec.convert(msgspec.to_builtins(given), self._arguments)
        except msgspec.ValidationError as error:
            raise Invalid(f"tool {self.name}: {error}") from error
        return {name: getattr(checked, name) for name in self._arguments.__struct_fields__}

    def decode_result(self, value: Any) -> Any:
        """A stored result as the function's return type, or as plain data where it is none of that type."""
        try:
            return msgspec.convert(value, self._returns)
        except (msgspec.ValidationError, TypeError):
            return value

    async def __call__(self, ctx: object, arguments: Mapping[str, Any], key: str) -> Any:
        """Call the function with checked arguments; one that takes an idempotency key gets `key`."""
        named = {self._key_parameter: key} if self._key_parameter else {}
        if self._takes_context:
            return await self._function(ctx, **arguments, **named)
        return await self._function(**arguments, **named)


class AgentToolBox:
    """The tools that one agent may use."""

    def __init__(self, functions: Mapping[str, ToolFunction]) -> None:
        self._tools: dict[str, ListedTool] = {name: Tool(name, function) for name, function in functions.items()}

    def with_added_tools(self, further: Mapping[str, ListedTool]) -> "AgentToolBox":
        """Return a list that has `further` tools, too; a name on this one stays what it is."""
        joined = AgentToolBox({})
        joined._tools = {**further, **self._tools}
        return joined

    def __getitem__(self, name: str) -> ListedTool:
        """The tool `name`.

        Raises:
            Forbidden: it is not on the list.
        """
        try:
            return self._tools[name]
        except KeyError:
            allowed = ", ".join(sorted(self._tools)) or "none"
            raise Forbidden(f"tool {name!r} is not allowed here; allowed: {allowed}") from None

    @property
    def may_need_approval(self) -> bool:
        """Whether there is a tool about whose unknown calls people decide."""
        return any(tool.options.on_unknown == "ask" for tool in self._tools.values())

    @property
    def tool_names(self) -> list[str]:
        """The names on the list, sorted."""
        return sorted(self._tools)


def _make_arguments_type(name: str, function: ToolFunction) -> type[msgspec.Struct]:
    hints = get_type_hints(function)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == CONTEXT_PARAMETER or hints.get(parameter.name) is IdempotencyKey:
            continue
        if parameter.name not in hints or parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            raise ConfigurationError(
                f"tool {name}: parameter {parameter.name} needs a type annotation, and can't be *args or **kwargs"
            )
        kind = hints[parameter.name]
        default = parameter.default
        fields.append((parameter.name, kind) if default is parameter.empty else (parameter.name, kind, default))
    return msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
