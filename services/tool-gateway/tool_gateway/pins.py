"""What tenants allowed, and what is offered: both in PostgreSQL, where operators compare them."""

import json

from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Pool, retry_later_if_unavailable, tenant_transaction
from flotilla.telemetry import metrics
from tool_gateway.offers import OfferedToolDefinition
from tool_gateway.servers import McpServerConfig

# The hash that the task's tenant allowed.
_SELECT_PIN_ALLOWED_TOOLS = (
    "SELECT sha256 FROM flotilla.allowed_tools WHERE tenant_id = $1 AND server = $2 AND tool = $3"
)
# Replaces what a server was last seen to offer, and counts the allowed tools that differ from it.
_NOTE_OFFERED_TOOLS = "SELECT flotilla.note_offered_tools($1, $2, $3)"


class AllowedTools:
    """Reads what is allowed, notes what is offered."""

    def __init__(self, pool: Pool, servers: dict[str, McpServerConfig], operator_tenant: str) -> None:
        self._pool = pool
        self._servers = servers
        self._operator_tenant = operator_tenant

    def allowing_tenants(self, server: str) -> list[str]:
        """Return whose administrators may allow tools of `server`; `*` is every tenant."""
        tenants = self._servers[server].tenants
        return [self._operator_tenant] if tenants is None else tenants

    def may_allow(self, tenant_id: str, server: str) -> bool:
        """Whether the tenant may allow tools of `server`."""
        return bool({"*", tenant_id} & set(self.allowing_tenants(server)))

    async def allowed_hash(self, tenant_id: str, server: str, tool: str) -> str | None:
        """Return the hash that the tenant allowed; None where it allowed none, or may not.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        if not self.may_allow(tenant_id, server):
            return None
        with retry_later_if_unavailable():
            async with tenant_transaction(self._pool, tenant_id) as connection:
                found: str | None = await connection.fetchval(_SELECT_PIN_ALLOWED_TOOLS, tenant_id, server, tool)
        return found

    async def note(self, server: str, offers: list[OfferedToolDefinition]) -> None:
        """Note what `server` offers now; a tool that is allowed in another form shows in the metrics.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        tools: list[JsonObject] = [
            {"tool": each.tool, "sha256": each.definition_sha256, "definition": each.definition, "risk": each.risk}
            for each in offers
        ]
        with retry_later_if_unavailable():
            changed = await self._pool.fetchval(
                _NOTE_OFFERED_TOOLS, server, self.allowing_tenants(server), json.dumps(tools)
            )
        metrics.MCP_CHANGED.labels(server).set(changed)
