"""The agent `mcp`: a task of it is one call of an MCP tool."""

from flotilla.agent import Agent, TaskContext
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.contracts.errors import Forbidden
from flotilla.contracts.mcp import MCP_AGENT, McpCall, McpResult
from flotilla.runtime.confined import FunctionRunner
from flotilla.telemetry import metrics
from tool_gateway.connections import ServerConnection, ServerConnections
from tool_gateway.governed import GovernedMcpTool, needs_people
from tool_gateway.offers import OfferedToolDefinition, is_tool_name
from tool_gateway.pins import AllowedTools

_MAX_CALL_S = 4000.0
"""More than the longest `timeoutS`."""
_MOST_CALLS = 1000


class ToolChanged(Forbidden):
    """The server describes the tool otherwise than when it was allowed: an administrator has to read it again."""


class ToolNotAllowed(Forbidden):
    """No administrator of the tenant allowed the tool."""


def mcp_agent(
    connections: ServerConnections, pins: AllowedTools, policy: ReloadingPolicyFile, run: FunctionRunner
) -> Agent:
    """Return the agent that calls the tools of `connections` as far as `pins` and `policy` allow.

    `run` holds arguments against the tools' schemas.
    """
    agent = Agent(
        MCP_AGENT,
        version="1",
        concurrency=min(max(connections.max_calls, 1), _MOST_CALLS),
        timeout_s=_MAX_CALL_S,
        gates_calls=True,
    )

    @agent.task
    async def call(ctx: TaskContext, task: McpCall) -> McpResult:
        """Call the tool once, after people have approved exactly these arguments where policy asks for that."""
        server, _, name = task.tool.partition(".")
        connection = connections.get(server)
        if connection is None:
            raise _refused(task.tool, "-", "unknown", ToolNotAllowed("there is no such MCP server"))
        with connection.slots.hold(ctx.tenant_id):
            tool = GovernedMcpTool(await _allowed(ctx, connection, name, pins), connection, run)
            return await _governed(ctx, tool, task)

    async def _governed(ctx: TaskContext, tool: GovernedMcpTool, task: McpCall) -> McpResult:
        arguments = tool.validated_arguments(task.arguments)
        await tool.check_arguments(arguments)
        if needs_people(policy, tool, arguments):
            ctx.gated.add_gated_tool(tool.name, tool.minimum_risk)
        return McpResult(**await ctx.call(tool, arguments))

    return agent


async def _allowed(
    ctx: TaskContext, connection: ServerConnection, name: str, pins: AllowedTools
) -> OfferedToolDefinition:
    """Return the tool as it is offered now, which is what was allowed.

    Raises:
        ToolNotAllowed, ToolChanged: it is not.
        ServerAway: the server is not connected.
    """
    server, full_name = connection.name, f"{connection.name}.{name}"
    # First, so that a tenant that may not call the tool never waits for the server.
    pinned = await pins.allowed_hash(ctx.tenant_id, server, name) if is_tool_name(name) else None
    if pinned is None and name in connection.offers:
        why = f"allow it with `flotilla tools allow {full_name}`"
        raise _refused(full_name, server, "not_allowed", ToolNotAllowed(why))
    if pinned is None:
        why = "the server offers no such tool; see `flotilla tools list`"
        raise _refused(full_name, server, "unknown", ToolNotAllowed(why))
    await connection.wait_connected()
    offer = connection.offers.get(name)
    if offer is None:
        why = "the server offers it no more; see `flotilla tools list`"
        raise _refused(full_name, server, "unknown", ToolNotAllowed(why))
    if pinned != offer.definition_sha256:
        why = f"its description changed since it was allowed: look at `flotilla tools diff {full_name}`"
        raise _refused(full_name, server, "changed", ToolChanged(why))
    return offer


def _refused(tool: str, server: str, reason: str, error: Forbidden) -> Forbidden:
    metrics.MCP_REFUSED.labels(server, reason).inc()
    return type(error)(f"tool {tool}: {error}")
