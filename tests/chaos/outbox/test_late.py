"""A transaction that takes a minute to commit, and the others meanwhile, with the relays as they run in production."""

import asyncio

import asyncpg
import pytest

from flotilla.outbox import append
from flotilla.postgres import open_pool, set_tenant, tenant_transaction
from flotilla_devstack import RunningStack
from tests.chaos.harness import World, open_world
from tests.support.session_events import (
    TENANT,
    append_messages,
    create_session,
    first_occurrences,
    in_order,
    key_of,
    message,
    read_topic,
)
from tests.support.waiting import eventually

LATE_S = 60


async def commit_late(world: World) -> list[str]:
    """Appends first, commits `LATE_S` later; returns the ids of its events."""
    connection = await asyncpg.connect(world.database.dsn())
    async with connection.transaction():
        await set_tenant(connection, TENANT)
        appended = await append(connection, TENANT, "late", [message("drawn first"), message("drawn second")])
        await connection.execute("SELECT pg_sleep($1)", LATE_S)
    await connection.close()
    return [event.id for event in appended.events]


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_what_commits_a_minute_late_is_delivered_and_holds_up_nobody(stack: RunningStack) -> None:
    async with open_world(stack) as world, open_pool(world.database.dsn(), application="test") as pool:
        world.run("outbox-relay", count=2)
        await world.ready()
        async with tenant_transaction(pool, TENANT) as connection:
            await create_session(connection, "late")
        committing = asyncio.create_task(commit_late(world))
        early: list[str] = []
        while not committing.done():
            early += await append_messages(pool, "early", ["meanwhile"] * 20)
            await arrived(world, "early", early)
        await arrived(world, "late", await committing)


async def arrived(world: World, session: str, ids: list[str]) -> None:
    """Waits until Kafka has exactly these events of the session, in order."""

    async def there() -> bool:
        return first_occurrences(await read_topic(world.kafka)).get(key_of(session)) == in_order(ids)

    await eventually(there, timeout_s=20, every_s=0.2)
