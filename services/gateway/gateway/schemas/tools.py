"""Tools of MCP servers, and which of them the tenant allows."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, JsonValue, StringConstraints

from flotilla.contracts.requests import RiskLevel
from gateway.schemas.common import Answer, Reason, RequestBody

_HASH: JsonValue = {"sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}

ToolStatus: TypeAlias = Literal["offered", "allowed", "changed", "gone"]
"""`changed`: the server describes it otherwise than when it was allowed. `gone`: the server offers it no more."""


class ToolDefinition(Answer):
    """What a model or a person reads of a tool; its hash is what is allowed."""

    sha256: str
    name: str
    title: str | None
    description: str | None
    input_schema: dict[str, Any]
    annotations: dict[str, Any]


class Tool(Answer):
    """A tool of an MCP server."""

    name: str
    """`<server>.<tool>`."""
    server: str
    action: str
    """As approval policy names it: `mcp.<server>.<tool>`."""
    status: ToolStatus
    risk: RiskLevel | None
    """The least; policy can raise it. None of a tool that is gone."""
    offered: ToolDefinition | None
    """As its server describes it now."""
    allowed: ToolDefinition | None
    """As it was allowed."""
    allowed_by: str | None
    allowed_at: datetime | None
    changed_at: datetime | None
    """When its server described it like this first."""


class ToolList(Answer):
    """All tools, by name."""

    tools: list[Tool]


class AllowBody(RequestBody):
    """Which description was looked at."""

    model_config = ConfigDict(json_schema_extra={"examples": [_HASH]})

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Of the definition that is to be allowed: `offered.sha256` of the tool."""


class OutcomeBody(RequestBody):
    """What came of a call that gave no answer, as an administrator found out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"result": {"refund": "r-17"}, "reason": "looked it up in the till"}]}
    )

    result: JsonValue
    """What the tool would have returned: a text, or its structured result."""
    reason: Reason


class AcceptedOutcome(Answer):
    """A call whose outcome is stated. The approval that asks whether it runs again is still open: reject it."""

    approval_id: str
    tool: str
    """`<server>.<tool>`."""
