"""An agent encrypts what it records, with the key of the session whose task it holds, and with no other."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flotilla.agent import Agent
from flotilla.bus import Consumer, Redis, connect_redis
from flotilla.encryption import KeyFile, Keyring, sealed_task
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import Pool, TaskProof, acting_for_task, open_pool, session_cipher, tenant_transaction
from tests.support.adder import Adder, asked
from tests.support.agents import SESSION, delegate, open_session, publish, replies, running, session_events, task
from tests.support.consumers import pending
from tests.support.postgres import agent_dsn
from tests.support.waiting import eventually


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on a Redis of this test's own."""
    async with connect_redis(redis_url) as client:
        yield client


async def test_what_an_agent_records_is_encrypted(sealing: Pool, redis: Redis, key_file: Path) -> None:
    await open_session(sealing)
    own = Keyring(KeyFile(key_file), writes=True)
    async with running(Adder().agent, sealing, redis, keyring=own):
        await publish(sealing, redis, asked())
        await eventually(lambda: replies(redis, "done"))
    call, result = await session_events(sealing)
    assert set(call["data"]) == {"tool", "call_id", "agent", "sealed"}
    assert set(result["data"]) == {"tool", "call_id", "agent", "ok", "duration_ms", "sealed"}
    state = await AgentEventStore(sealing).state_at(SESSION)
    assert state.tool_calls[0].args
    assert state.tool_results[0].result == 3


async def tried(redis: Redis, consumer: Consumer, agent: Agent) -> bool:
    """Whether the consumer was given a task, and has let it go without an answer."""
    return consumer.in_flight_count == 0 and await pending(redis, agent.stream, agent.group) > 0


async def test_an_agent_without_the_key_leaves_an_encrypted_task_to_one_that_has_it(
    sealing: Pool, redis: Redis, key_file: Path
) -> None:
    await open_session(sealing)
    own = Keyring(KeyFile(key_file), writes=True)
    async with tenant_transaction(sealing, "default") as connection:
        cipher = await own.writing(connection, "default", SESSION)
    lacking, having = Adder(), Adder()
    async with running(lacking.agent, sealing, redis, name="c1") as consumer:
        await publish(sealing, redis, sealed_task(cipher, asked()))
        await eventually(lambda: tried(redis, consumer, lacking.agent))
        async with running(having.agent, sealing, redis, name="c2", keyring=own):
            (reply,) = await eventually(lambda: replies(redis))
    assert reply["status"] == "done"
    assert (lacking.runs, having.runs) == (0, 1)


async def test_an_agent_has_the_key_of_its_tasks_session_only(sealing: Pool, key_file: Path) -> None:
    await open_session(sealing)
    await open_session(sealing, "other")
    await delegate(sealing, held := task())
    proof = TaskProof(task_id=held.task_id, attempt=held.attempt, secret=held.secret or "")
    stolen = TaskProof(task_id=held.task_id, attempt=held.attempt, secret="guessed")
    ring = Keyring(KeyFile(key_file), writes=True)
    async with (
        open_pool(await agent_dsn(sealing, "adder"), application="adder", keyring=ring) as own,
        own.acquire() as connection,
    ):
        with acting_for_task(stolen):
            assert await session_cipher(connection, "default", SESSION) is None
        with acting_for_task(proof):
            assert await session_cipher(connection, "default", "other") is None
            assert await session_cipher(connection, "default", SESSION) is not None
