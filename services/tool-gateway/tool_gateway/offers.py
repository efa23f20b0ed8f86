"""What MCP servers offer: each tool as it was described, with the hash that an operator allows."""

import hashlib
import json
import re
from dataclasses import dataclass

from mcp_types import Tool, ToolAnnotations

from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.requests import RiskLevel

MAX_TOOLS = 500
"""Of one server."""
MAX_DEFINITION_BYTES = 100_000
"""Of one tool, as JSON: a model reads it with each request."""
MAX_OFFERED_BYTES = 5_000_000
"""Of one server's tools together: they are noted with each look, and listed in one response."""
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedToolDefinition:
    """A tool as its server describes it now."""

    server: str
    tool: str
    definition: JsonObject
    """`name`, `description`, `input_schema`, `annotations`: what a model or a person reads of it."""
    size: int
    """Of the definition, in bytes of JSON."""
    risk: RiskLevel
    """The least: what the operators say, and more where the tool itself says that it destroys."""

    @property
    def name(self) -> str:
        """As agents and policy name it, below `mcp.`."""
        return f"{self.server}.{self.tool}"

    @property
    def definition_sha256(self) -> str:
        """Of the definition, in hexadecimal digits: the pin."""
        return definition_hash(self.definition)


def is_tool_name(name: str) -> bool:
    """Whether a tool of this name can be offered and called."""
    return _TOOL_NAME.fullmatch(name) is not None


def definition_hash(definition: JsonObject) -> str:
    """Return the SHA-256 of a definition as JSON, keys sorted, without spaces."""
    canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_offer(server: str, tool: Tool, risk: RiskLevel) -> OfferedToolDefinition | str:
    """Return what `server` offers as `tool`, or why that can't be offered."""
    annotations = tool.annotations or ToolAnnotations()
    definition: JsonObject = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "annotations": annotations.model_dump(mode="json", exclude_none=True, by_alias=True),
    }
    size = len(json.dumps(definition))
    if size > MAX_DEFINITION_BYTES:
        return f"its definition has more than {MAX_DEFINITION_BYTES} bytes"
    return OfferedToolDefinition(
        server=server, tool=tool.name, definition=definition, size=size, risk=_raised(risk, annotations)
    )


def _raised(risk: RiskLevel, annotations: ToolAnnotations) -> RiskLevel:
    """Raise the risk by what the tool says of itself. No hint of a server lowers it."""
    return "high" if annotations.destructive_hint and not annotations.read_only_hint else risk
