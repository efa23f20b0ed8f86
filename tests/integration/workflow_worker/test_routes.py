"""Tasks go to the version that their agent's route says, once, and to another one when that is gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest
from temporalio.activity import _CompleteAsyncError
from temporalio.testing import ActivityEnvironment

from flotilla.agent import Agent, AgentSettings, TaskContext, run_agent
from flotilla.bus import Redis, connect_redis
from flotilla.bus.known_agents import KnownAgents
from flotilla.contracts.names import task_stream
from flotilla.contracts.tasks import AgentTask
from flotilla.postgres import Pool, open_pool
from flotilla.runtime import Runtime
from tests.support.agents import delegate as on_record
from tests.support.agents import open_session, replies, rows, sealed, task
from tests.support.postgres import Database, agent_dsn
from tests.support.redis_users import url_of
from tests.support.tickets import PUBLIC_KEY_FILE, SIGNER
from tests.support.waiting import eventually
from workflow_worker.activities.delegation import DelegationActivities
from workflow_worker.delegates import KnownDelegates
from workflow_worker.delegations import HopPublisher
from workflow_worker.recent_hops import RecentHopCache

SESSIONS = 40


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Writes registrations and routes."""
    connection = await asyncpg.connect(database.superuser_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def workers_pool(database: Database) -> AsyncIterator[Pool]:
    async with open_pool(database.dsn("flotilla_worker"), application="worker") as pool:
        yield pool


def delegation(pool: Pool, redis: Redis) -> DelegationActivities:
    """The activity of a worker that has just started: it knows the routes as they are now."""
    publisher = HopPublisher(pool, redis, KnownDelegates(pool), RecentHopCache())
    return DelegationActivities(pool, redis, publisher, SIGNER, KnownAgents(pool, redis, ("adder",)))


async def delegate(worker: DelegationActivities, wanted: AgentTask) -> None:
    """One attempt of the activity, which then waits for an answer."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_run_id=str(uuid4()))
    with pytest.raises(_CompleteAsyncError):
        await environment.run(worker.delegate, wanted)


def wanted(number: int, attempt: int = 1) -> AgentTask:
    name = f"s{number}"
    return task(f"t{number}", session_id=name, reply_to=None, secret=None, deadline=None, attempt=attempt)


async def alive(owner: "asyncpg.Connection", *versions: str) -> None:
    """Exactly these versions of the agent have an instance."""
    await owner.execute("DELETE FROM flotilla_ops.agents")
    for version in versions:
        await owner.execute(
            "INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, "
            "input_schema, output_schema) VALUES ('adder', $1, $1, 's', 'g', 8, '{}', '{}')",
            version,
        )


async def route(owner: "asyncpg.Connection", version: str, percent: int | None, *, drained: bool = False) -> None:
    await owner.execute(
        "INSERT INTO flotilla_ops.agent_routes VALUES ('adder', $1, $2, $3, 'ada') "
        "ON CONFLICT (agent, version) DO UPDATE SET percent = excluded.percent, drained = excluded.drained",
        version,
        percent,
        drained,
    )


async def lengths(redis: Redis) -> list[int]:
    """How many tasks are there for any version, for 1 and for 2."""
    return [await redis.xlen(task_stream("adder", version)) for version in (None, "1", "2")]


async def test_without_a_route_tasks_are_for_any_version_and_with_one_each_session_keeps_its_own(
    workers_pool: Pool, pool: Pool, redis: Redis, owner: asyncpg.Connection
) -> None:
    await alive(owner, "1", "2")
    await delegate(delegation(workers_pool, redis), wanted(0))
    assert await lengths(redis) == [1, 0, 0]
    await route(owner, "2", 30)
    for number in range(1, SESSIONS):
        await delegate(delegation(workers_pool, redis), wanted(number))
    _, one, two = await lengths(redis)
    assert one + two == SESSIONS - 1
    assert 2 <= two < one
    decided = await rows(pool, "SELECT task_id, version FROM flotilla.delegations WHERE version IS NOT NULL")
    assert Counter(row["version"] for row in decided) == {"1": one, "2": two}


async def test_tries_keep_the_version_of_the_first_while_it_lives_and_move_when_it_is_gone(
    workers_pool: Pool, pool: Pool, redis: Redis, owner: asyncpg.Connection
) -> None:
    await alive(owner, "1", "2")
    await route(owner, "2", 100)
    await delegate(delegation(workers_pool, redis), wanted(1))
    await route(owner, "2", 0)
    await delegate(delegation(workers_pool, redis), wanted(1))  # the next attempt of the activity: it is in the stream
    assert await lengths(redis) == [0, 0, 1]
    await delegate(delegation(workers_pool, redis), wanted(1, attempt=2))
    await route(owner, "2", None, drained=True)
    await delegate(delegation(workers_pool, redis), wanted(2))
    assert await lengths(redis) == [0, 1, 2]
    await alive(owner, "1")
    await delegate(delegation(workers_pool, redis), wanted(1, attempt=2))
    assert await lengths(redis) == [0, 2, 2]
    await alive(owner)
    await delegate(delegation(workers_pool, redis), wanted(1, attempt=2))
    assert await lengths(redis) == [1, 2, 2]
    last = await rows(pool, "SELECT version FROM flotilla.delegations WHERE task_id = 't1' ORDER BY attempt")
    assert [row["version"] for row in last] == ["2", ""]


async def test_two_workers_with_different_routes_publish_a_task_for_one_version(
    workers_pool: Pool, redis: Redis, owner: asyncpg.Connection
) -> None:
    await alive(owner, "1", "2")
    await route(owner, "2", 100)
    former, latter = delegation(workers_pool, redis), delegation(workers_pool, redis)
    await delegate(former, wanted(0))  # reads the route
    await route(owner, "2", 0)
    await asyncio.gather(*(delegate(worker, wanted(1)) for worker in (former, latter)))
    _, one, two = await lengths(redis)
    assert (one, two) in {(0, 2), (0, 3), (1, 1), (2, 1)}  # t0 is at 2; t1, perhaps twice, at one of them


@asynccontextmanager
async def version(number: str, pool: Pool, redis_url: str) -> AsyncIterator[list[str]]:
    """An instance of this version of the agent, as its own user of Redis; the tasks that it did."""
    agent, done = Agent("adder", version=number), list[str]()

    @agent.task
    async def work(ctx: TaskContext, _given: dict[str, int]) -> dict[str, str]:
        done.append(ctx.task_id)
        return {"by": number}

    settings = AgentSettings(
        postgres_dsn=await agent_dsn(pool, "adder"),  # type: ignore[arg-type]
        redis_url=await url_of(redis_url, "adder-agent"),  # type: ignore[arg-type]
        ticket_public_key_file=PUBLIC_KEY_FILE,
        approval_policy="builtin:local",
    )
    runtime = Runtime(f"adder-{number}")
    running = asyncio.create_task(run_agent(agent, settings, runtime))
    try:
        yield done
    finally:
        runtime.request_stop("the test is over")
        await running


async def test_instances_take_the_tasks_of_their_version_and_those_for_any(
    pool: Pool, redis_url: str, redis: Redis
) -> None:
    await open_session(pool)
    tasks = {to: [task(f"{to}-{each}") for each in range(3)] for to in ("1", "2", "any")}
    await on_record(pool, *(each for some in tasks.values() for each in some))
    async with version("1", pool, redis_url) as first, version("2", pool, redis_url) as second:
        for to, some in tasks.items():
            for each in some:
                entry = sealed(each)
                stream = task_stream("adder", None if to == "any" else to)
                await redis.xadd(stream, {"event": entry.body, "ticket": entry.ticket})
        await eventually(lambda: all_done(redis, 9))
    assert {name for name in first if not name.startswith("any")} == {"1-0", "1-1", "1-2"}
    assert {name for name in second if not name.startswith("any")} == {"2-0", "2-1", "2-2"}
    assert {name for name in (*first, *second) if name.startswith("any")} == {"any-0", "any-1", "any-2"}


async def all_done(redis: Redis, count: int) -> bool:
    return len({reply["task_id"] for reply in await replies(redis, "done")}) == count
