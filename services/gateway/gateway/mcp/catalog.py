"""What a caller can call: tools of MCP servers that the tenant allows, agents, workflows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_types import Tool, ToolAnnotations

from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.mcp import MCP_AGENT, model_name
from flotilla.contracts.names import QUESTION
from flotilla.postgres import tenant_transaction
from gateway.mcp.door import Door
from gateway.runs.askable import RunTarget, find_run_target, list_run_target_names, list_run_targets
from gateway.schemas.runs import MAX_QUERY_CHARACTERS

_QUESTION_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARACTERS, "description": "The question."}
    },
    "required": ["query"],
    "additionalProperties": False,
}
# Those that can be called: still offered, and described as when they were allowed.
_SELECT_ALLOWED_TOOLS = """
SELECT server, tool, a.definition FROM flotilla.allowed_tools AS a
JOIN flotilla_ops.offered_tools AS o USING (server, tool)
WHERE a.tenant_id = $1 AND a.sha256 = o.sha256 ORDER BY server, tool
"""
_ALLOWED_NAMES = f"SELECT server, tool FROM ({_SELECT_ALLOWED_TOOLS}) AS a"  # noqa: S608 - constants
_ALLOWED_ONE = f"SELECT definition FROM ({_SELECT_ALLOWED_TOOLS}) AS a WHERE server = $2 AND tool = $3"  # noqa: S608
_HEADER_HINT = "x-mcp-header"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableTool:
    """A tool whose call is a task or a run."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    title: str | None = None
    annotations: Mapping[str, Any] | None = None
    upstream: str = ""
    """`<server>.<tool>` of an MCP server's tool."""
    agent: str = ""
    workflow: str = ""

    @property
    def target(self) -> str:
        """What is called, whatever name it is listed under."""
        if self.upstream:
            return f"tool {self.upstream}"
        return f"agent {self.agent}" if self.agent else f"workflow {self.workflow}"

    def tool(self) -> Tool:
        """Return it as the protocol lists tools."""
        return Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=dict(self.input_schema),
            annotations=ToolAnnotations.model_validate(self.annotations) if self.annotations else None,
        )


async def list_callable_tools(door: Door) -> dict[str, CallableTool]:
    """Return all of them by name: an MCP server's tool before an agent whose name, cut to size, is the same."""
    services, tenant_id = door.services, door.caller.tenant_id
    async with tenant_transaction(services.pool, tenant_id) as connection:
        rows = await connection.fetch(_SELECT_ALLOWED_TOOLS, tenant_id)
    found = [_upstream(row["server"], row["tool"], json.loads(row["definition"])) for row in rows]
    found += [_run_target(one) for one in await list_run_targets(services.pool) if one.name != MCP_AGENT]
    return {one.name: one for one in reversed(found)}


async def find_callable(door: Door, name: str) -> CallableTool | None:
    """Return the one that `list_callable_tools` has under that name, or None. Reads no other's definition."""
    services, tenant_id = door.services, door.caller.tenant_id
    async with tenant_transaction(services.pool, tenant_id) as connection:
        for server, tool in await connection.fetch(_ALLOWED_NAMES, tenant_id):
            if model_name(MCP_AGENT, server, tool) == name:
                definition = await connection.fetchval(_ALLOWED_ONE, tenant_id, server, tool)
                return None if definition is None else _upstream(server, tool, json.loads(definition))
    for kind, one in await list_run_target_names(services.pool):
        if one != MCP_AGENT and model_name(kind.removesuffix("s"), one) == name:
            return _run_target(await find_run_target(services.pool, kind, one))
    return None


def _upstream(server: str, tool: str, definition: JsonObject) -> CallableTool:
    full_name = f"{server}.{tool}"
    annotations = definition.get("annotations")
    return CallableTool(
        name=model_name(MCP_AGENT, server, tool),
        title=str(definition["title"]) if definition.get("title") else None,
        description=str(definition.get("description") or full_name),
        input_schema=_without_headers(definition["input_schema"]),
        annotations=annotations if isinstance(annotations, Mapping) else None,
        upstream=full_name,
    )


def _run_target(one: RunTarget) -> CallableTool:
    if one.kind == "agents":
        return CallableTool(
            name=model_name("agent", one.name),
            description=one.description,
            input_schema=_object_schema(one.input_schema),
            agent=one.name,
        )
    is_question = one.name == QUESTION
    return CallableTool(
        name=model_name("workflow", one.name),
        description=one.description,
        input_schema=_QUESTION_SCHEMA if is_question else _object_schema(one.input_schema),
        workflow=one.name,
    )


def _object_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema that MCP clients take: one of an object."""
    return schema if schema.get("type") == "object" else {**schema, "type": "object"}


def _without_headers(schema: Any) -> Mapping[str, Any]:
    """Return the schema without the wish that arguments are repeated in HTTP headers: nothing here routes by them."""
    if not isinstance(schema, Mapping):
        return {"type": "object"}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return _object_schema(schema)
    kept = {
        name: {key: value for key, value in member.items() if key != _HEADER_HINT}
        if isinstance(member, Mapping)
        else member
        for name, member in properties.items()
    }
    return _object_schema({**schema, "properties": kept})
