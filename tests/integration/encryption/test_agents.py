"""An agent encrypts what it records, with the key of the session whose task it holds, which a worker issues."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flotilla.agent import Agent
from flotilla.agent.session_keys import IssuedKeyring
from flotilla.bus import Consumer, Redis, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import task_stream
from flotilla.encryption import KeyFile, KeyRefused, Keyring, sealed_task
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import Pool, TaskProof, acting_for_task, open_pool, session_cipher, tenant_transaction
from tests.support.adder import Adder, asked
from tests.support.agents import (
    SESSION,
    delegate,
    open_session,
    publish,
    replies,
    running,
    sealed_fields,
    session_events,
    task,
)
from tests.support.consumers import pending
from tests.support.postgres import agent_dsn
from tests.support.session_keys import agent_process, issuing
from tests.support.waiting import eventually


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on a Redis of this test's own."""
    async with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
async def url(sealing: Pool, key_file: Path) -> AsyncIterator[str]:
    """Where a worker issues keys of sessions."""
    async with issuing(sealing, key_file) as address:
        yield address


async def test_what_an_agent_records_is_encrypted(sealing: Pool, redis: Redis, url: str) -> None:
    await open_session(sealing)
    async with running(Adder().agent, sealing, redis, keyring=IssuedKeyring(url, writes=True)):
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
    sealing: Pool, redis: Redis, keyring: Keyring, url: str
) -> None:
    await open_session(sealing)
    async with tenant_transaction(sealing, "default") as connection:
        cipher = await keyring.writing(connection, "default", SESSION)
    lacking, having = Adder(), Adder()
    async with running(lacking.agent, sealing, redis, name="c1") as consumer:
        await publish(sealing, redis, sealed_task(cipher, asked()))
        await eventually(lambda: tried(redis, consumer, lacking.agent))
        async with running(having.agent, sealing, redis, name="c2", keyring=IssuedKeyring(url, writes=True)):
            (reply,) = await eventually(lambda: replies(redis))
    assert reply["status"] == "done"
    assert (lacking.runs, having.runs) == (0, 1)


async def test_an_agent_has_the_key_of_its_tasks_session_and_of_those_that_it_was_forked_from(
    sealing: Pool, keyring: Keyring, url: str
) -> None:
    for session_id in ("root", "parent", "other"):
        await open_session(sealing, session_id)
    await open_session(sealing)
    parents = "UPDATE flotilla.sessions SET parent_session_id = $2, forked_at_seq = 0 WHERE session_id = $1"
    async with tenant_transaction(sealing, "default") as connection:
        await connection.execute(parents, SESSION, "parent")
        await connection.execute(parents, "parent", "root")
        for session_id in ("root", "parent", "other"):
            await keyring.writing(connection, "default", session_id)
    await delegate(sealing, held := task())
    proof = TaskProof(task_id=held.task_id, attempt=held.attempt, secret=held.secret or "")
    async with agent_process(sealing, url) as process, process.pool.acquire() as connection:
        with pytest.raises(KeyRefused):
            await session_cipher(connection, "default", SESSION)
        with acting_for_task(proof):
            assert await session_cipher(connection, "default", SESSION) is not None, "made by the worker"
            found = await process.keyring.reading(connection, "default", ["root", "parent", "other"])
    assert [name for name, cipher in found.items() if cipher is not None] == ["root", "parent"]


async def test_an_agent_of_the_former_version_goes_on_with_its_key_file(
    sealing: Pool, keyring: Keyring, key_file: Path
) -> None:
    await open_session(sealing)
    async with tenant_transaction(sealing, "default") as connection:
        await keyring.writing(connection, "default", SESSION)
    await open_session(sealing, "other")
    await delegate(sealing, held := task())
    former = Keyring(KeyFile(key_file), writes=True)
    async with (
        open_pool(await agent_dsn(sealing, "adder"), application="adder", keyring=former) as own,
        own.acquire() as connection,
    ):
        with acting_for_task(TaskProof(task_id=held.task_id, attempt=held.attempt, secret=held.secret or "")):
            assert await session_cipher(connection, "default", SESSION) is not None
            assert await session_cipher(connection, "default", "other") is None


async def test_an_entry_that_no_task_is_held_for_is_kept_as_it_came(sealing: Pool, redis: Redis, url: str) -> None:
    await open_session(sealing)
    async with running(Adder().agent, sealing, redis, keyring=IssuedKeyring(url, writes=True)):
        await redis.xadd(task_stream("adder"), {**sealed_fields(forged := asked()), "ticket": "forged"})
        (letter,) = await eventually(lambda: PostgresDeadLetterStore(sealing).list_dead_letters("default"), 30)
    assert (letter.task_id, letter.session_id) == (forged.task_id, SESSION)
    assert "is not the worker's" in letter.error


async def test_work_waits_while_no_worker_answers(sealing: Pool) -> None:
    await open_session(sealing)
    await delegate(sealing, held := task())
    proof = TaskProof(task_id=held.task_id, attempt=held.attempt, secret=held.secret or "")
    async with agent_process(sealing, "http://127.0.0.1:9") as process, process.pool.acquire() as connection:
        with acting_for_task(proof), pytest.raises(RetryLater, match="no worker answers"):
            await session_cipher(connection, "default", SESSION)
