"""A crash of PostgreSQL takes away the rows that `delegate` wrote last, since it does not wait for the disk."""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest
from temporalio.activity import _CompleteAsyncError
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from flotilla.bus import Delivery, Redis, connect_redis, ensure_group
from flotilla.bus.known_agents import KnownAgents
from flotilla.contracts.envelope import AgentEvent, to_builtins
from flotilla.contracts.errors import DeadLetter, RetryLater
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import agent_group, task_stream
from flotilla.contracts.tasks import TASK_REPLIED, AgentReply, AgentTask
from flotilla.postgres import AWAY, Pool, open_pool, tenant_transaction
from flotilla_devstack.servers.postgres import PostgresServer
from tests.support.postgres import Database
from tests.support.tickets import SIGNER
from tests.support.waiting import eventually
from workflow_worker.activities.delegation import DelegationActivities
from workflow_worker.bridge import ReplyBridge
from workflow_worker.delegates import KnownDelegates
from workflow_worker.delegations import HopPublisher
from workflow_worker.recent_hops import RecentHopCache
from workflow_worker.settlement import ReplySettler

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 's1', 'alice')"
ROWS = "SELECT status, attempt, result FROM flotilla.agent_tasks WHERE task_id = $1"
EVENTS = "SELECT count(*) FROM flotilla.event_outbox WHERE session_id = 's1'"


@pytest.fixture
async def own_pool(harmed_database: Database) -> AsyncIterator[Pool]:
    async with open_pool(harmed_database.dsn(), application="test") as pool:
        async with tenant_transaction(pool, "acme") as connection:
            await connection.execute(ADD_SESSION)
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as connection:
        await ensure_group(connection, task_stream("research"), agent_group("research"))
        yield connection


@pytest.fixture
def task(unique: Callable[[str], str]) -> AgentTask:
    return AgentTask(task_id=unique("task"), agent="research", tenant_id="acme", session_id="s1", input={})


@pytest.fixture
def bridge(temporal_client: Client, own_pool: Pool, redis: Redis) -> ReplyBridge:
    recent = RecentHopCache()
    publisher = HopPublisher(own_pool, redis, KnownDelegates(own_pool), recent)
    return ReplyBridge(temporal_client, redis, ReplySettler(own_pool, SIGNER, recent), publisher)


def reply_to(task: AgentTask, entry_id: str | None = None) -> Delivery:
    """What a foreign agent answered just now."""
    called: JsonObject = {"tool": "search", "call_id": "c1", "args": {}}
    reply = AgentReply(
        task_id=task.task_id,
        agent=task.agent,
        tenant_id=task.tenant_id,
        session_id=task.session_id,
        status="done",
        attempt=task.attempt,
        result={"found": 1},
        events=[{"kind": "tool_call", "data": called}],
    )
    event = AgentEvent(type=TASK_REPLIED, source="/agents/research", subject="s1", data=to_builtins(reply))
    return Delivery(entry_id or f"{int(time.time() * 1000)}-0", event)


@pytest.fixture
async def delegation(own_pool: Pool, redis: Redis) -> DelegationActivities:
    """The activity, of a worker that has delegated to this agent before."""
    delegates = KnownDelegates(own_pool)
    await delegates.note_delegate("research")
    agents = KnownAgents(own_pool, redis, ("research", "write"))
    return DelegationActivities(
        own_pool, redis, HopPublisher(own_pool, redis, delegates, RecentHopCache()), SIGNER, agents
    )


async def delegated(delegation: DelegationActivities, task: AgentTask) -> None:
    """One attempt of the activity, which then waits for an answer."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_run_id=str(uuid4()))  # which Temporal does not know
    with pytest.raises(_CompleteAsyncError):
        await environment.run(delegation.delegate, task)


async def hold_back(server: PostgresServer) -> None:
    """From here to its crash the server writes no log that no commit waits for."""
    connection = await asyncpg.connect(server.dsn())
    try:
        writer = await connection.fetchval("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    finally:
        await connection.close()
    os.kill(writer, signal.SIGSTOP)


async def crash(server: PostgresServer, pool: Pool) -> None:
    """kill -9 of the server, and its recovery."""
    server.kill()
    server.start()
    server.wait_ready()

    async def answers() -> bool:
        try:
            return bool(await pool.fetchval("SELECT true"))
        except (*AWAY, TimeoutError):
            return False

    await eventually(answers)


async def row_of(pool: Pool, task: AgentTask) -> tuple[str, int, str | None] | None:
    async with tenant_transaction(pool, task.tenant_id) as connection:
        row = await connection.fetchrow(ROWS, task.task_id)
        return (row["status"], row["attempt"], row["result"]) if row else None


async def events(pool: Pool) -> int:
    async with tenant_transaction(pool, "acme") as connection:
        return int(await connection.fetchval(EVENTS))


async def test_a_foreign_agents_reply_waits_for_the_row_that_a_crash_took_away(
    own_postgres: PostgresServer, own_pool: Pool, delegation: DelegationActivities, task: AgentTask, bridge: ReplyBridge
) -> None:
    await hold_back(own_postgres)
    await delegated(delegation, task)
    assert await row_of(own_pool, task) == ("queued", 1, None)
    await crash(own_postgres, own_pool)
    assert await row_of(own_pool, task) is None  # else this test proves nothing

    reply = reply_to(task)
    with pytest.raises(RetryLater, match="no such task"):
        await bridge.handle_reply("research", reply)
    await delegated(delegation, task)
    for _ in range(2):
        await bridge.handle_reply("research", reply)
    assert await row_of(own_pool, task) == ("done", 1, '{"found": 1}')
    assert await events(own_pool) == 1


async def test_a_foreign_agents_reply_waits_for_the_try_that_a_crash_took_away(
    own_postgres: PostgresServer, own_pool: Pool, delegation: DelegationActivities, task: AgentTask, bridge: ReplyBridge
) -> None:
    await delegated(delegation, task)
    async with tenant_transaction(own_pool, "acme") as connection:
        await connection.execute("UPDATE flotilla.agent_tasks SET status = 'failed' WHERE task_id = $1", task.task_id)
    await hold_back(own_postgres)
    second = replace(task, attempt=2)
    await delegated(delegation, second)
    await crash(own_postgres, own_pool)
    assert await row_of(own_pool, task) == ("failed", 1, None)

    reply = reply_to(second)
    with pytest.raises(RetryLater, match="no try 2"):
        await bridge.handle_reply("research", reply)
    await delegated(delegation, second)
    await bridge.handle_reply("research", reply)
    assert await row_of(own_pool, task) == ("done", 2, '{"found": 1}')
    assert await events(own_pool) == 1


async def test_an_old_reply_to_a_task_that_nobody_knows_goes_to_the_dead_letters(
    bridge: ReplyBridge, task: AgentTask
) -> None:
    with pytest.raises(RetryLater, match="no such task"):
        await bridge.handle_reply("research", reply_to(task))
    with pytest.raises(DeadLetter, match="no such task"):
        await bridge.handle_reply("research", reply_to(task, entry_id="1-0"))
