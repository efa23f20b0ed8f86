"""The tool gateway as a service."""

from contextlib import AsyncExitStack
from functools import partial

import structlog

from flotilla.agent import open_agent_pool, run_agent
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.runtime import Runtime, serve
from flotilla.runtime.health import http_server
from tool_gateway import schemas
from tool_gateway.agent import mcp_agent
from tool_gateway.api import calls_api
from tool_gateway.at_once import CallsAtOnce
from tool_gateway.connections import ServerConnections
from tool_gateway.pins import AllowedTools
from tool_gateway.servers import read_server_configs
from tool_gateway.settings import Settings

SERVICE = "tool-gateway"
log = structlog.get_logger(__name__)


async def run(settings: Settings, runtime: Runtime) -> None:
    """Keep the MCP servers connected and serve calls of their tools until `runtime.stop`."""
    servers = read_server_configs(settings.mcp_servers_file)
    policy = ReloadingPolicyFile(settings.approval_policy)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_agent_pool(settings, application=SERVICE))
        pins = AllowedTools(pool, servers, settings.operator_tenant)
        connections = ServerConnections(servers, pins.note)
        checkers = await stack.enter_async_context(schemas.open_schema_checkers())
        agent = mcp_agent(connections, pins, policy, checkers.run)
        calls = CallsAtOnce(
            pool, connections, pins, policy, checkers.run, max_calls_per_task=settings.max_calls_per_task
        )
        server = http_server(
            calls_api(calls), settings.http_host, settings.http_port, grace_s=max(1, int(settings.drain_s) - 2)
        )
        port = await stack.enter_async_context(
            server.serving(partial(runtime.supervisor.task_ended_early, "http server"))
        )
        log.info("listening", port=port)
        await run_agent(agent, settings, runtime, pool=pool, policy=policy, jobs=connections.jobs())


def main() -> None:
    """Entry point of `tool-gateway`."""
    raise SystemExit(serve(SERVICE, Settings, run))


if __name__ == "__main__":
    main()
