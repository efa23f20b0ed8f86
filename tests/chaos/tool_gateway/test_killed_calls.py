"""The tool gateway killed at random instants of calls that are made at once: each is made once, or people are asked."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from flotilla.agent.mcp_calls import open_tool_gateway_client
from flotilla.bus import connect_redis
from flotilla.contracts.approvals import Decision
from flotilla.contracts.requests import RAGRequest
from flotilla.postgres import Pool
from flotilla_devstack import RunningStack
from flotilla_devstack.services import ServiceProcess
from tests.integration.tool_gateway.conftest import POLICY, Desk
from tests.integration.tool_gateway.test_agents import Clerk
from tests.integration.workflow_worker.test_gated_tools import PENDING, decide
from tests.support.agents import running
from tests.support.postgres import Database
from tests.support.redis_users import url_of
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker, running_worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]
KILLS = 30 if os.environ.get("FULL") else 6
STATUS = "SELECT run_id, status FROM flotilla.runs WHERE status IN ('success', 'error')"


class People:
    """They let every other call without an answer run again."""

    def __init__(self, worker: RunningWorker) -> None:
        self._worker = worker
        self.approved: Counter[str] = Counter()
        self.asked = 0

    async def decide(self) -> None:
        """Decide about what waits by now."""
        for approval in await self._worker.rows("acme", PENDING):
            assert ".again." in approval["approval_id"]
            self.asked += 1
            verdict: Decision = "approve" if self.asked % 2 else "reject"
            await decide(self._worker, approval, verdict)
            self.approved[json.loads(approval["args"])["name"]] += verdict == "approve"


async def service(stack: RunningStack, database: Database, redis_url: str, folder: Path) -> ServiceProcess:
    """Return the tool gateway as a process, with the server `desk`."""
    desk = {"command": sys.executable, "args": ["-m", "tests.support.mcp_server", str(folder)], "cwd": str(Path.cwd())}
    entry = {**desk, "env": {"API_TOKEN": "${env:HOME}"}, "risk": "low", "tenants": ["default", "acme"]}
    (folder / "servers.json").write_text(json.dumps({"mcpServers": {"desk": entry}}), "utf-8")
    (folder / "policy.toml").write_text(POLICY, "utf-8")
    env = {
        "FLOTILLA_POSTGRES_DSN": database.dsn("flotilla_agent_mcp"),
        "FLOTILLA_REDIS_URL": await url_of(redis_url, "mcp-agent"),
        "FLOTILLA_TICKET_PUBLIC_KEY_FILE": str(PUBLIC_KEY_FILE),
        "FLOTILLA_MCP_SERVERS_FILE": str(folder / "servers.json"),
        "FLOTILLA_APPROVAL_POLICY": str(folder / "policy.toml"),
        "FLOTILLA_BUS_MIN_IDLE_MS": "2000",
    }
    return stack.service("tool-gateway", env=env)


async def start(process: ServiceProcess) -> None:
    """Start it, and wait until it serves."""
    process.start()
    await asyncio.to_thread(process.wait_ready, 120)


async def test_each_call_is_made_once_or_asked_about_though_the_tool_gateway_is_killed(
    *,
    stack: RunningStack,
    database: Database,
    pool: Pool,
    redis_url: str,
    temporal_address: str,
    unique: Callable[[str], str],
    tmp_path: Path,
) -> None:
    chance = random.Random(66)  # noqa: S311 - the same instants each time
    process = await service(stack, database, redis_url, tmp_path)
    await start(process)
    clerk = Clerk()
    questions: list[RAGRequest] = []
    async with (
        connect_redis(redis_url) as redis,
        running_worker(
            dsn=database.dsn("flotilla_worker"),
            pool=pool,
            redis_url=redis_url,
            temporal_address=temporal_address,
            task_queue=unique("queue"),
            agents=("adder", "mcp"),
        ) as worker,
        open_tool_gateway_client(process.url) as caller,
        running(clerk.agent, pool, redis, mcp_caller=caller),
    ):
        desk, people = Desk(pool, redis, tmp_path, process.url), People(worker)
        await desk.allow_all("acme")

        async def all_over() -> bool:
            await people.decide()
            return len(await worker.rows("acme", STATUS)) == len(questions)

        for number in range(KILLS):
            # Two at a time; the agent makes what stands here when its task begins.
            clerk.calls = [("mcp__desk__slowly", {"name": f"{number}{side}"}) for side in "ab"]
            questions.append(
                RAGRequest(
                    query="q",
                    user_id="alice",
                    session_id=unique("s"),
                    tenant_id="acme",
                    run_id=unique("run"),
                    steps=["adder"],
                )
            )
            await worker.start_run(questions[-1])
            await asyncio.sleep(chance.uniform(0, 1.5))
            process.kill()
            await start(process)
            await eventually(all_over, timeout_s=240)
        made = Counter(line.removeprefix("slowly ") for line in desk.calls())
        for number, question in enumerate(questions):
            status = (await worker.run_row(question))["status"]
            for name in (f"{number}a", f"{number}b"):
                assert made[name] <= 1 + people.approved[name], f"{name} was made again, and nobody said so"
                assert status != "success" or made[name] >= 1, f"{name} has an answer and was not made"
    print(f"{KILLS} kills, {made.total()} effects, {people.asked} questions")  # noqa: T201 - what a long run found
