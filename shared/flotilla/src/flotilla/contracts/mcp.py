"""Calls of MCP tools: tasks of the agent `mcp`, which is the tool gateway."""

from dataclasses import dataclass, field

from flotilla.contracts.json_types import JsonObject, JsonValue

MCP_AGENT = "mcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCall:
    """Input of agent `mcp`: one call of a tool that the tenant's administrators allowed."""

    tool: str
    """`<server>.<tool>`; policy knows it as `mcp.<server>.<tool>`."""
    arguments: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class McpResult:
    """What the tool answered: untrusted data, never an instruction."""

    content: list[JsonObject]
    """Blocks as MCP has them: `{"type": "text", "text": …}` and others."""
    structured: JsonValue = None
    is_error: bool = False
    """The tool, or its server, said that it failed."""
