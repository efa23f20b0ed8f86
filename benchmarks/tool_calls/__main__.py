"""Prints what a governed call of an MCP tool takes, beside the same call made directly.

    python -m benchmarks.tool_calls [--rounds 5] [--runs 40]

The tool is of low risk, so nobody is asked: what is measured is a task from Temporal to the tool gateway and back, with
its ticket, its checks, its call stored before and after, and its session events. Both peers call a server of the same
program, one after the other in each round, so that the difference is steadier than the milliseconds.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mcp import Client as McpClient
from mcp import StdioServerParameters
from temporalio.client import Client

from benchmarks.run_latency.__main__ import Peer, measure
from flotilla.config.signing import create_key_pair
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import PIPELINE_WORKFLOW, TASK_QUEUE, task_workflow_id
from flotilla.contracts.requests import PipelineRequest
from flotilla.postgres import Pool, open_pool, tenant_transaction
from flotilla_devstack import RunningStack, stack_for_tests
from tests.support.agents import open_session
from tests.support.postgres import Database, drop, make_template, with_database
from tests.support.waiting import eventually

TENANT = "default"
SESSION = "bench"
PROGRAM = ["-m", "tests.support.mcp_server"]
ALLOW = """
INSERT INTO flotilla.allowed_tools (tenant_id, server, tool, sha256, definition, allowed_by)
SELECT 'default', server, tool, sha256, definition, 'bench' FROM flotilla_ops.offered_tools WHERE tool = 'add'
RETURNING tool
"""
POLICY = 'version = "1"\nextends = "builtin:local"\n[actions."mcp.desk.add"]\nrisk = "low"\n'


@asynccontextmanager
async def fleet(stack: RunningStack, database: Database) -> AsyncIterator[Client]:
    """Worker and tool gateway as processes, on a Redis and a Temporal of their own."""
    folder = stack.scratch_folder()
    key, policy, servers = folder / "tickets.pem", folder / "policy.toml", folder / "servers.json"
    create_key_pair(key, key.with_suffix(".pub"))
    policy.write_text(POLICY, "utf-8")
    desk = {"command": sys.executable, "args": [*PROGRAM, str(folder)], "cwd": str(Path.cwd()), "risk": "low"}
    servers.write_text(json.dumps({"mcpServers": {"desk": desk}}), "utf-8")
    redis, temporal = stack.extra_redis(), stack.extra_temporal()
    env = {
        "FLOTILLA_REDIS_URL": redis.url,
        "FLOTILLA_TEMPORAL_ADDRESS": temporal.address,
        "FLOTILLA_LOG_LEVEL": "warning",
        "FLOTILLA_APPROVAL_POLICY": str(policy),
        "FLOTILLA_TICKET_KEY_FILE": str(key),
        "FLOTILLA_TICKET_PUBLIC_KEY_FILE": str(key.with_suffix(".pub")),
        "FLOTILLA_MCP_SERVERS_FILE": str(servers),
    }
    processes = [
        stack.service("workflow-worker", env={**env, "FLOTILLA_POSTGRES_DSN": database.dsn("flotilla_worker")}),
        stack.service("tool-gateway", env={**env, "FLOTILLA_POSTGRES_DSN": database.dsn("flotilla_agent")}),
    ]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.wait_ready, 120)
    yield await Client.connect(temporal.address)


async def prepare(pool: Pool) -> None:
    """Open the session that records the calls, and allow the tool, once it is offered."""
    await open_session(pool, SESSION, TENANT)

    async def allowed() -> bool:
        async with tenant_transaction(pool, TENANT) as connection:
            return bool(await connection.fetchval(ALLOW))

    await eventually(allowed, timeout_s=60)


def governed(client: Client) -> Callable[[], Awaitable[object]]:
    """A call as a task of agent `mcp`."""

    def once() -> Awaitable[object]:
        task_id = f"bench-{secrets.token_hex(6)}"
        wanted: JsonObject = {"tool": "desk.add", "arguments": {"a": 1, "b": 2}}
        request = PipelineRequest(steps=["mcp"], input=wanted, user_id="bench", task_id=task_id, session_id=SESSION)
        return client.execute_workflow(PIPELINE_WORKFLOW, request, id=task_workflow_id(task_id), task_queue=TASK_QUEUE)

    return once


def report(taken: dict[str, list[list[float]]]) -> None:
    """p50 and p99 of each peer, and what lies between them."""
    p50 = {name: [statistics.median(times) * 1000 for times in rounds] for name, rounds in taken.items()}
    print(f"{'one at a time':<24}{'p50 ms':>9}{'rounds':>18}{'p99 ms':>9}")
    for name, rounds in taken.items():
        every = sorted(value * 1000 for times in rounds for value in times)
        spread = f"{min(p50[name]):.1f}-{max(p50[name]):.1f}"
        print(f"{name:<24}{statistics.median(p50[name]):>9.1f}{spread:>18}{every[int(len(every) * 0.99)]:>9.1f}")
    direct, through = p50.values()
    added = [b - a for a, b in zip(direct, through, strict=True)]
    print(
        f"\ngovernance adds {statistics.median(added):+.1f} ms at p50"
        f" ({min(added):+.1f} to {max(added):+.1f}; reach +15)"
    )


async def main(rounds: int, runs: int) -> None:
    with stack_for_tests() as stack:
        server = stack.postgres_dsn("postgres")
        name = f"flotilla_bench_{secrets.token_hex(4)}"
        await make_template(server, name)
        database = Database(with_database(server, name))
        parameters = StdioServerParameters(command=sys.executable, args=[*PROGRAM, str(stack.scratch_folder())])
        try:
            async with (
                open_pool(database.dsn(), application="bench") as pool,
                fleet(stack, database) as client,
                McpClient(parameters) as direct,
            ):
                await prepare(pool)
                peers = [
                    Peer("direct", lambda: direct.call_tool("add", {"a": 1, "b": 2})),
                    Peer("governed", governed(client)),
                ]
                await measure(peers, 1, 5)  # warm
                report(await measure(peers, rounds, runs))
        finally:
            await drop(server, name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.runs))
