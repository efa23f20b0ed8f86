"""Prints what a governed call of an MCP tool takes, beside the same call made directly.

    python -m benchmarks.tool_calls [--rounds 5] [--runs 40]

The tool is of low risk, so nobody is asked. `by an agent` is `ctx.tool` of a task that is held: to the tool gateway and
back, checked, stored before and after, with its session events. `as a task` goes from Temporal to the tool gateway and
back, with a ticket. All peers call a server of the same program, one after the other in each round, so that the
difference is steadier than the milliseconds.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mcp import Client as McpClient
from mcp import StdioServerParameters
from temporalio.client import Client, WorkflowHandle

from benchmarks.run_latency.__main__ import Peer, measure
from flotilla.agent import Agent, AgentSettings, TaskContext, run_agent
from flotilla.config.signing import create_key_pair
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import PIPELINE_WORKFLOW, TASK_QUEUE, task_workflow_id
from flotilla.contracts.requests import PipelineRequest
from flotilla.postgres import Pool, open_pool, tenant_transaction
from flotilla_devstack import RunningStack, stack_for_tests
from tests.support.agent_service import service_running
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
async def fleet(stack: RunningStack, database: Database, caller: "Caller") -> AsyncIterator[Client]:
    """Worker and tool gateway as processes, the agent `caller` in this one, on a Redis and a Temporal of their own."""
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
    settings = AgentSettings.model_validate(
        {
            "postgres_dsn": database.dsn("flotilla_agent"),
            "redis_url": redis.url,
            "ticket_public_key_file": key.with_suffix(".pub"),
            "approval_policy": str(policy),
            "tool_gateway_url": processes[1].url,
            "drain_s": 3,
        }
    )
    async with service_running("caller-agent", partial(run_agent, caller.agent), settings):
        yield await Client.connect(temporal.address)


async def prepare(pool: Pool) -> None:
    """Open the session that records the calls, and allow the tool, once it is offered."""
    await open_session(pool, SESSION, TENANT)

    async def allowed() -> bool:
        async with tenant_transaction(pool, TENANT) as connection:
            return bool(await connection.fetchval(ALLOW))

    await eventually(allowed, timeout_s=60)


@dataclass(frozen=True)
class Nothing:
    """What the caller gets, and returns."""


class Caller:
    """An agent that holds one task, and calls the tool whenever it is asked to."""

    def __init__(self) -> None:
        self.agent = Agent("caller", mcp=("desk.add",), timeout_s=36_000)
        self._asked: asyncio.Queue[asyncio.Future[object]] = asyncio.Queue()

        @self.agent.task
        async def call(ctx: TaskContext, task: Nothing) -> Nothing:
            while True:
                answer = await self._asked.get()
                try:
                    answer.set_result(await ctx.tool("mcp__desk__add", a=1, b=2))
                except BaseException as error:  # a pause, too: this way is not what is measured
                    answer.set_exception(RuntimeError(f"the call was left to the worker: {error}"))
                    raise

    async def once(self) -> object:
        """Call the tool."""
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        await self._asked.put(answer)
        return await answer

    async def start(self, client: Client) -> WorkflowHandle[Any, Any]:
        """Give the agent its task, once the fleet knows it."""
        request = PipelineRequest(
            steps=["caller"], input={}, user_id="bench", task_id=f"bench-{secrets.token_hex(6)}", session_id=SESSION
        )
        return await client.start_workflow(
            PIPELINE_WORKFLOW, request, id=task_workflow_id(request.task_id), task_queue=TASK_QUEUE
        )


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
    for name in ("by an agent", "as a task"):
        added = [b - a for a, b in zip(p50["direct"], p50[name], strict=True)]
        print(f"{name} adds {statistics.median(added):+.1f} ms at p50 ({min(added):+.1f} to {max(added):+.1f})")


async def main(rounds: int, runs: int) -> None:
    with stack_for_tests() as stack:
        server = stack.postgres_dsn("postgres")
        name = f"flotilla_bench_{secrets.token_hex(4)}"
        await make_template(server, name)
        database = Database(with_database(server, name))
        parameters = StdioServerParameters(command=sys.executable, args=[*PROGRAM, str(stack.scratch_folder())])
        caller = Caller()
        try:
            async with (
                open_pool(database.dsn(), application="bench") as pool,
                fleet(stack, database, caller) as client,
                McpClient(parameters) as direct,
            ):
                await prepare(pool)
                peers = [
                    Peer("direct", lambda: direct.call_tool("add", {"a": 1, "b": 2})),
                    Peer("by an agent", caller.once),
                    Peer("as a task", governed(client)),
                ]
                held = await caller.start(client)
                await measure(peers, 1, 5)  # warm
                report(await measure(peers, rounds, runs))
                await held.terminate()
        finally:
            await drop(server, name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.runs))
