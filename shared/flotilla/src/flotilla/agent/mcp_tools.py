"""MCP tools as an agent's own: the tool gateway makes each call, while the agent's task holds nothing.

A call that has no answer yet ends the task's try, as one that waits for people does. The worker has the tool gateway
make it, as a task under an id that begins with this one's, and the next try finds the answer under that id.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flotilla.agent.ports import IdentifiedToolCall
from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.errors import ConfigurationError, Refused
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.mcp import MCP_AGENT, McpResult, model_name
from flotilla.contracts.tasks import AgentTask, McpCallNeeded, mcp_call_id_prefix
from flotilla.contracts.tools import ToolOptions
from flotilla.encryption import ERASED
from flotilla.encryption.tables import AGENT_TASKS, STAND_IN
from flotilla.postgres import Pool, open_rows, retry_later_if_unavailable, tenant_transaction

# What the task's tenant allowed of these servers and tools.
_SELECT_ALLOWED_TOOLS = """
SELECT server, tool, definition FROM flotilla.allowed_tools
WHERE tenant_id = $1 AND (server = ANY ($2) OR server || '.' || tool = ANY ($2)) ORDER BY server, tool
"""
# What came of the calls that the held task asked for.
_SELECT_MCP_ANSWERS = "SELECT task_id, status, result, failure FROM flotilla.mcp_answers()"


class McpToolFailed(Refused):
    """The tool, or its server, said that it failed; or the call was refused, by policy, people or the tool gateway."""


@dataclass(frozen=True, slots=True)
class McpCallOutcome:
    """What came of one call."""

    result: McpResult | None
    """None: there is none, and `why` says why."""
    why: str = ""

    def result_or_raise(self, tool: str) -> Any:
        """Return what the tool returned: its structured result, else its text.

        Raises:
            McpToolFailed: it failed, or was not called.
        """
        if self.result is None:
            raise McpToolFailed(f"tool {tool}: {self.why}")
        text = "\n".join(str(block.get("text", "")) for block in self.result.content if block.get("type") == "text")
        if self.result.is_error:
            raise McpToolFailed(f"tool {tool} failed: {text}")
        if self.result.structured is not None:
            return self.result.structured
        return text if all(block.get("type") == "text" for block in self.result.content) else self.result.content


class McpTool:
    """A tool of an MCP server that the tenant allows."""

    def __init__(self, server: str, tool: str, definition: JsonObject) -> None:
        self.upstream = f"{server}.{tool}"
        self.name = model_name(MCP_AGENT, server, tool)
        self.description = str(definition.get("description") or self.upstream)
        self.options = ToolOptions()
        self._schema = definition["input_schema"]

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, as the server describes them."""
        return dict(self._schema) if isinstance(self._schema, Mapping) else {}

    def validated_arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Return `given` as it is: the tool gateway checks it against the schema."""
        return dict(given)

    def decode_result(self, value: Any) -> Any:
        """A stored result as it is."""
        return value

    async def __call__(self, ctx: object, arguments: Mapping[str, Any], key: str) -> Any:
        """Never called here.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"tool {self.name} can't run in the agent's process: call it by ctx.tool, and the tool gateway runs it"
        )

    def to_call_request(self, task: AgentTask, call: IdentifiedToolCall, arguments: JsonObject) -> McpCallNeeded:
        """Return what the worker has the tool gateway do; the id tells equal calls of a task apart, and
        those of a hop from those of a task whose id begins alike."""
        name = json.dumps([task.task_id, call.tool, call.args_hash.hex(), call.occurrence])
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return McpCallNeeded(
            call_id=f"{mcp_call_id_prefix(task.task_id)}{digest}", tool=self.upstream, arguments=arguments
        )


async def load_allowed_tools(pool: Pool, task: AgentTask, names: Sequence[str]) -> dict[str, McpTool]:
    """Return the tools of `names` (servers, or single tools) that the task's tenant allows, by their names here.

    Raises:
        RetryLater: PostgreSQL is unavailable.
    """
    with retry_later_if_unavailable():
        async with tenant_transaction(pool, task.tenant_id) as connection:
            rows = await connection.fetch(_SELECT_ALLOWED_TOOLS, task.tenant_id, list(names))
    tools = [McpTool(row["server"], row["tool"], json.loads(row["definition"])) for row in rows]
    return {tool.name: tool for tool in tools}


async def load_mcp_call_outcomes(pool: Pool, task: AgentTask) -> dict[str, McpCallOutcome]:
    """Return what came of the calls that the task has asked for, by their ids.

    Raises:
        RetryLater: PostgreSQL is unavailable.
    """
    with retry_later_if_unavailable():
        async with tenant_transaction(pool, task.tenant_id) as connection:
            found = [{**row, "session_id": task.session_id} for row in await connection.fetch(_SELECT_MCP_ANSWERS)]
            rows = await open_rows(connection, task.tenant_id, AGENT_TASKS, found)
    return {row["task_id"]: _call_outcome_from_row(row) for row in rows}


def _call_outcome_from_row(row: Mapping[str, Any]) -> McpCallOutcome:
    if row["status"] != "done":
        why = json.loads(row["failure"])["message"] if row["failure"] else ""
        return McpCallOutcome(None, why or row["status"])
    result = json.loads(row["result"])
    if result == STAND_IN:
        return McpCallOutcome(None, ERASED)
    return McpCallOutcome(from_builtins(result, McpResult))
