"""The worker killed, Redis emptied: the run finishes, and no step's answer is bought twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client

from flotilla.bus import Redis, connect_redis
from flotilla.contracts.names import RAG_WORKFLOW, run_workflow_id
from flotilla.contracts.requests import RAGRequest, RAGResponse
from flotilla_devstack import RunningStack, ServiceProcess
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.postgres import Database
from tests.support.tickets import KEY_FILE
from tests.support.waiting import eventually

BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@dataclass
class World:
    """Workers as processes, agents in the test."""

    stack: RunningStack
    client: Client
    redis: Redis
    database: Database
    env: dict[str, str]

    async def worker(self) -> ServiceProcess:
        process = self.stack.service("workflow-worker", env=self.env)
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(process.wait_ready, 60)
        return process

    async def start(self, request: RAGRequest) -> Any:
        return await self.client.start_workflow(
            RAG_WORKFLOW,
            request,
            id=run_workflow_id(request.run_id),
            task_queue=self.env["FLOTILLA_TASK_QUEUE"],
            result_type=RAGResponse,
        )

    async def one(self, query: str) -> Any:
        connection = await asyncpg.connect(self.database.superuser_dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()


@pytest.fixture
async def world(
    stack: RunningStack, temporal_client: Client, redis_url: str, database: Database, unique: Callable[[str], str]
) -> AsyncIterator[World]:
    env = {
        "FLOTILLA_POSTGRES_DSN": database.dsn("flotilla_worker"),
        "FLOTILLA_REDIS_URL": redis_url,
        "FLOTILLA_TASK_QUEUE": unique("queue"),
        "FLOTILLA_TICKET_KEY_FILE": str(KEY_FILE),
    }
    async with connect_redis(redis_url) as redis:
        yield World(stack, temporal_client, redis, database, env)


@pytest.fixture
def question(unique: Callable[[str], str]) -> RAGRequest:
    return RAGRequest(query="Who?", user_id="alice", session_id=unique("s"), tenant_id="acme", run_id=unique("r"))


async def test_a_worker_killed_before_the_answer_arrives_does_not_repeat_the_step(
    world: World, question: RAGRequest
) -> None:
    first = await world.worker()

    async def kill_then_answer(task: Task) -> dict[str, Any]:
        await asyncio.to_thread(first.kill)
        return await agents.write(task)

    async with (
        foreign_agent(world.redis, "research", agents.research),
        foreign_agent(world.redis, "write", kill_then_answer) as writer,
    ):
        handle = await world.start(question)
        await eventually(lambda: not first.is_running(), timeout_s=20)
        await world.worker()
        assert (await handle.result()).answer.startswith("The harbour master")
        assert len(writer.seen) == 1


async def test_a_worker_killed_while_it_saves_saves_once(world: World, question: RAGRequest) -> None:
    first = await world.worker()
    locker = await asyncpg.connect(world.database.superuser_dsn)
    async with (
        foreign_agent(world.redis, "research", agents.research),
        foreign_agent(world.redis, "write", agents.write) as writer,
    ):
        transaction = locker.transaction()
        await transaction.start()
        await locker.execute("LOCK TABLE flotilla.interactions IN EXCLUSIVE MODE")
        handle = await world.start(question)
        await eventually(lambda: world.one(BLOCKED), timeout_s=20)
        await asyncio.to_thread(first.kill)
        await transaction.rollback()
        await locker.close()
        await world.worker()
        assert (await handle.result()).answer.startswith("The harbour master")
        assert len(writer.seen) == 1
    assert await world.one("SELECT count(*) FROM flotilla.interactions") == 1
    assert await world.one("SELECT max(head_seq) FROM flotilla.sessions") == 4
    assert await world.one("SELECT status FROM flotilla.runs") == "success"


async def test_a_task_lost_with_all_of_redis_is_published_again(world: World, question: RAGRequest) -> None:
    await world.worker()
    lost = asyncio.Event()

    async def lose_first(task: Task) -> dict[str, Any] | None:
        if not lost.is_set():
            await world.redis.flushall()
            lost.set()
            return None
        return await agents.research(task)

    async with (
        foreign_agent(world.redis, "research", lose_first) as researcher,
        foreign_agent(world.redis, "write", agents.write),
    ):
        handle = await world.start(question)
        assert (await handle.result()).answer.startswith("The harbour master")
    assert [task["attempt"] for task in researcher.seen] == [1, 1]
