"""The agent `mcp`: a task of it is one call of an MCP tool."""

from flotilla.agent import Agent, TaskContext
from flotilla.approvals.reloading import PolicyFile
from flotilla.contracts.errors import Forbidden
from flotilla.contracts.mcp import MCP_AGENT, McpCall, McpResult
from flotilla.telemetry import metrics
from tool_gateway.connections import Connection, Connections
from tool_gateway.governed import GovernedTool
from tool_gateway.offers import Offer
from tool_gateway.pins import Pins

_MAX_CALL_S = 4000.0
"""More than the longest `timeoutS`."""


class ToolChanged(Forbidden):
    """The server describes the tool otherwise than when it was allowed; somebody has to look at it."""


class ToolNotAllowed(Forbidden):
    """No administrator of the tenant allowed the tool."""


def mcp_agent(connections: Connections, pins: Pins, policy: PolicyFile) -> Agent:
    """Return the agent that calls the tools of `connections` as far as `pins` and `policy` allow."""
    agent = Agent(MCP_AGENT, version="1", concurrency=32, timeout_s=_MAX_CALL_S, gates_calls=True)

    @agent.task
    async def call(ctx: TaskContext, task: McpCall) -> McpResult:
        """Call the tool once, after people have approved exactly these arguments where policy asks for that."""
        server, _, name = task.tool.partition(".")
        connection = connections.get(server)
        if connection is None:
            raise _refused(task.tool, "-", "unknown", ToolNotAllowed("there is no such MCP server"))
        await connection.ready()
        offer = await _allowed(ctx, connection, name, pins)
        tool = GovernedTool(offer, connection)
        arguments = tool.arguments(task.arguments)
        action = f"{MCP_AGENT}.{offer.name}"
        rules = policy.current
        if rules.requirement(action, rules.assess(action, arguments, offer.risk)).required:
            ctx.gated.add(offer.name, offer.risk)
        return McpResult(**await ctx.call(tool, arguments))

    return agent


async def _allowed(ctx: TaskContext, connection: Connection, name: str, pins: Pins) -> Offer:
    """Return the tool as it is offered now, which is what was allowed.

    Raises:
        ToolNotAllowed, ToolChanged: it is not.
    """
    server = connection.name
    offer = connection.offers.get(name)
    if offer is None:
        raise _refused(f"{server}.{name}", server, "unknown", ToolNotAllowed("the server offers no such tool"))
    pinned = await pins.allowed_hash(ctx.tenant_id, offer)
    if pinned is None:
        why = f"allow it with `flotilla tools allow {offer.name}`"
        raise _refused(offer.name, server, "not_allowed", ToolNotAllowed(why))
    if pinned != offer.sha256:
        why = f"its description changed since it was allowed: look at `flotilla tools diff {offer.name}`"
        raise _refused(offer.name, server, "changed", ToolChanged(why))
    return offer


def _refused(tool: str, server: str, reason: str, error: Forbidden) -> Forbidden:
    metrics.MCP_REFUSED.labels(server, reason).inc()
    return type(error)(f"tool {tool}: {error}")
