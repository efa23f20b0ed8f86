"""The rows of offered and allowed tools as the gateway reads and writes them."""

import hashlib
import json
from typing import Any

import asyncpg

from flotilla.audit import admin_log
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, NotFound, no_such
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.mcp import MCP_AGENT, McpResult
from flotilla.encryption.tables import TOOL_CALLS
from flotilla.postgres import ITSELF, Connection, Pool, acting_as, seal_columns, tenant_transaction
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.schemas.tools import Tool, ToolDefinition, ToolStatus

# What is offered to the tenant, and what it allowed, whether it is still offered or not.
_LIST_OFFERED_TOOLS = """
SELECT server, tool, o.sha256 AS offered_hash, o.definition AS offered, o.risk, o.changed_at,
    a.sha256 AS allowed_hash, a.definition AS allowed, a.allowed_by, a.allowed_at
FROM flotilla_ops.offered_tools AS o
FULL JOIN (SELECT * FROM flotilla.allowed_tools WHERE tenant_id = $1) AS a USING (server, tool)
WHERE $2::text IS NULL OR server || '.' || tool = $2
ORDER BY server, tool
"""
# Exactly what was looked at; nothing where the server has described it otherwise meanwhile.
_INSERT_ALLOWED_TOOLS = """
INSERT INTO flotilla.allowed_tools (tenant_id, server, tool, sha256, definition, allowed_by)
SELECT $1, server, tool, sha256, definition, $4 FROM flotilla_ops.offered_tools
WHERE server || '.' || tool = $2 AND sha256 = $3
ON CONFLICT (tenant_id, server, tool) DO UPDATE SET sha256 = excluded.sha256, definition = excluded.definition,
    allowed_by = excluded.allowed_by, allowed_at = now()
RETURNING true
"""
_REVOKE_ALLOWED_TOOLS = """
DELETE FROM flotilla.allowed_tools WHERE tenant_id = $1 AND server || '.' || tool = $2 RETURNING sha256
"""

# The call that an approval asks about; callers don't see calls, so the gateway reads it for itself.
_ASKED_ABOUT = r"""
SELECT c.session_id, c.call_id FROM flotilla.actions AS a
JOIN flotilla.tool_calls AS c ON c.tenant_id = a.tenant_id AND c.task_id = a.request ->> 'task_id'
    AND a.action = 'mcp.' || c.tool AND c.start_no::text = substring(a.action_id FROM '\.again\.([0-9]+)$')
WHERE a.tenant_id = $1 AND a.action_id = $2
"""
# Of a call that gave no answer, while nobody runs it.
_ACCEPT_CALL_OUTCOME = "SELECT flotilla.accept_call_outcome($1, $2)"


class NoUnknownCall(Conflict):
    """The approval does not ask about a call without an answer, or the call has one by now, or a process runs it."""

    code = "no_unknown_call"


class ToolDescriptionChanged(Conflict):
    """The server describes the tool otherwise than what was looked at."""

    code = "tool_changed"


async def list_tools(connection: Connection, tenant_id: str) -> list[Tool]:
    """Return what is offered to the tenant or was allowed by it, by name."""
    return [_tool(row) for row in await connection.fetch(_LIST_OFFERED_TOOLS, tenant_id, None)]


async def get_tool(connection: Connection, tenant_id: str, name: str) -> Tool:
    """Return one tool.

    Raises:
        NotFound: no server offers it, and the tenant has not allowed it.
    """
    row = await connection.fetchrow(_LIST_OFFERED_TOOLS, tenant_id, name)
    if row is None:
        raise no_such("tool", name)
    return _tool(row)


async def allow_definition(connection: Connection, caller: Principal, name: str, sha256: str) -> Tool:
    """Allow the tool as far as its definition has this hash, and record who did.

    Raises:
        NotFound: there is no such tool.
        ToolDescriptionChanged: its definition has another hash.
    """
    before = await get_tool(connection, caller.tenant_id, name)
    if not await connection.fetchval(_INSERT_ALLOWED_TOOLS, caller.tenant_id, name, sha256, caller.subject):
        now = before.offered.sha256 if before.offered else "nothing: it is gone"
        raise ToolDescriptionChanged(f"tool {name} is not what was looked at: its server offers {now}")
    details = {"tool": name, "sha256": sha256, **caller.by}
    if before.allowed is not None:
        details["former_sha256"] = before.allowed.sha256
    tool = await get_tool(connection, caller.tenant_id, name)
    await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, ("mcp_tool_allowed", details))
    return tool


async def withdraw_allowance(connection: Connection, caller: Principal, name: str) -> None:
    """Allow the tool no more, and record who did.

    Raises:
        NotFound: it was not allowed.
    """
    sha256 = await connection.fetchval(_REVOKE_ALLOWED_TOOLS, caller.tenant_id, name)
    if sha256 is None:
        raise NotFound(f"tool {name} is not allowed")
    details = {"tool": name, "sha256": sha256, **caller.by}
    await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, ("mcp_tool_revoked", details))


async def accept_outcome(pool: Pool, caller: Principal, approval_id: str, result: JsonValue, reason: str) -> str:
    """Store what a call without an answer came to, and record who stated that; return the tool's name.

    Raises:
        NoUnknownCall: there is nothing to state.
    """
    is_text = isinstance(result, str)
    text = result if is_text else json.dumps(result, ensure_ascii=False)
    body = to_json(McpResult(content=[{"type": "text", "text": text}], structured=None if is_text else result))
    stored = await _sealed_outcome(pool, caller.tenant_id, approval_id, body.decode())
    async with tenant_transaction(pool, caller.tenant_id) as connection:
        tool: str | None = await connection.fetchval(_ACCEPT_CALL_OUTCOME, approval_id, stored)
        if tool is None:
            raise _no_unknown_call(approval_id)
        details = {
            "approval_id": approval_id,
            "tool": tool,
            "result_sha256": hashlib.sha256(body).hexdigest(),
            "reason": reason,
            **caller.by,
        }
        change = ("mcp_tool_result_accepted", details)
        await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, change)
    return tool


async def _sealed_outcome(pool: Pool, tenant_id: str, approval_id: str, outcome: str) -> str:
    """The outcome as the call's row holds it: encrypted, if its session is."""
    with acting_as(ITSELF):
        async with tenant_transaction(pool, tenant_id) as connection:
            call = await connection.fetchrow(_ASKED_ABOUT, tenant_id, approval_id)
            if call is None:
                raise _no_unknown_call(approval_id)
            stored = await seal_columns(
                connection, tenant_id, call["session_id"], TOOL_CALLS, call["call_id"], result=outcome
            )
    return str(stored["result"])


def _no_unknown_call(approval_id: str) -> NoUnknownCall:
    return NoUnknownCall(f"approval {approval_id} asks about no call of an MCP tool that is without an answer now")


def _tool(row: asyncpg.Record) -> Tool:
    name = f"{row['server']}.{row['tool']}"
    return Tool(
        name=name,
        server=row["server"],
        action=f"{MCP_AGENT}.{name}",
        status=_status(row),
        risk=row["risk"],
        offered=_definition(row["offered_hash"], row["offered"]),
        allowed=_definition(row["allowed_hash"], row["allowed"]),
        allowed_by=row["allowed_by"],
        allowed_at=row["allowed_at"],
        changed_at=row["changed_at"],
    )


def _status(row: asyncpg.Record) -> ToolStatus:
    if row["allowed_hash"] is None:
        return "offered"
    if row["offered_hash"] is None:
        return "gone"
    return "allowed" if row["allowed_hash"] == row["offered_hash"] else "changed"


def _definition(sha256: str | None, stored: str | None) -> ToolDefinition | None:
    if sha256 is None or stored is None:
        return None
    members: dict[str, Any] = json.loads(stored)
    return ToolDefinition(sha256=sha256, **members)
