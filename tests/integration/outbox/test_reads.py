"""What a read of the outbox finds while other transactions are open, and where it may begin."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from flotilla.kafka.lanes import lane_of_session
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, set_tenant, tenant_transaction
from outbox_relay.horizon_watch import HorizonTracker
from outbox_relay.read_starts import EndedTransactionsHorizon, ReadPosition
from outbox_relay.rows import (
    SELECT_OUTBOX_PAGE,
    OutboxPage,
    delete_published_rows,
    draw_horizon,
    read_outbox_page,
    refresh_horizon,
)
from tests.support.postgres import Database
from tests.support.session_events import TENANT, append_messages, create_session, message
from tests.support.waiting import eventually

LANES = tuple(range(12))
NOTHING_KNOWN = EndedTransactionsHorizon(0, frozenset())


@pytest.fixture
async def relay_connection(relay_pool: Pool) -> AsyncIterator[Connection]:
    async with relay_pool.acquire() as connection:
        yield connection


async def read(connection: Connection, start: ReadPosition | None = None, **limits: int) -> OutboxPage:
    return await read_outbox_page(
        connection, LANES, start or ReadPosition(), **{"max_rows": 5000, "max_bytes": 8_000_000, **limits}
    )


async def read_ids(connection: Connection, start: ReadPosition | None = None) -> list[int]:
    return sorted(row_id for rows in (await read(connection, start)).lanes for row_id in rows.ids)


@asynccontextmanager
async def open_transaction(database: Database) -> AsyncIterator[Connection]:
    """A writer's transaction that has drawn its transaction id, and ends when the block does."""
    connection = await asyncpg.connect(database.dsn())
    await connection.execute("BEGIN")
    await set_tenant(connection, TENANT)
    try:
        yield connection
    finally:
        await connection.close()


async def xid_of(connection: Connection) -> int:
    """The transaction id that the current transaction has drawn."""
    return int(await connection.fetchval("SELECT pg_current_xact_id_if_assigned()::text"))


async def make_sessions(pool: Pool, *sessions: str) -> None:
    async with tenant_transaction(pool, TENANT) as connection:
        for session in sessions:
            await create_session(connection, session)


async def test_rows_come_lane_by_lane_in_order_of_id(pool: Pool, relay_connection: Connection) -> None:
    for number in range(8):
        await append_messages(pool, f"s{number}", ["one", "two"])
    page = await read(relay_connection)
    assert page.rows == 16
    assert page.read_to is None
    for rows in page.lanes:
        assert list(rows.ids) == sorted(rows.ids)
        assert {lane_of_session(TENANT, key.decode().removeprefix("default/")) for key in rows.keys} == {rows.lane}


async def test_a_page_is_cut_at_its_rows_or_bytes(pool: Pool, relay_connection: Connection) -> None:
    await append_messages(pool, "s", ["x" * 1000] * 10)
    ids = await read_ids(relay_connection)
    by_rows = await read(relay_connection, max_rows=3)
    assert (by_rows.rows, by_rows.read_to) == (3, ids[2])
    by_bytes = await read(relay_connection, max_bytes=3000)
    assert (by_bytes.rows, by_bytes.read_to) == (3, ids[2])
    one_at_least = await read(relay_connection, max_bytes=1)
    assert (one_at_least.rows, one_at_least.read_to) == (1, ids[0])


async def test_a_transaction_that_commits_late_is_found_below_later_ones(
    pool: Pool, database: Database, relay_connection: Connection
) -> None:
    await make_sessions(pool, "late")
    async with open_transaction(database) as late:
        await append(late, TENANT, "late", [message("drawn first")])
        await append_messages(pool, "early", ["committed first"])
        horizon = await draw_horizon(relay_connection, above=NOTHING_KNOWN)
        assert horizon is not None
        first_read = await read_ids(relay_connection)
        await delete_published_rows(relay_connection, first_read)
        await late.execute("COMMIT")
    assert [row_id < first_read[0] for row_id in await read_ids(relay_connection)] == [True]


async def test_the_horizon_waits_for_every_older_transaction(
    pool: Pool, database: Database, relay_connection: Connection
) -> None:
    """Also for one whose id is above the snapshot's xmax, which stands one past the newest *finished* one.

    Transaction ids belong to the whole server, so transactions of other databases may run among these.
    """
    await make_sessions(pool, "a", "b")
    async with open_transaction(database) as lower, open_transaction(database) as higher:
        await append(lower, TENANT, "a", [message("lower xid")])
        await append(higher, TENANT, "b", [message("higher xid")])
        drawn = await draw_horizon(relay_connection, above=NOTHING_KNOWN)
        assert drawn is not None
        both = {await xid_of(lower), await xid_of(higher)}
        assert both <= (await refresh_horizon(relay_connection, *drawn)).running
        still = {await xid_of(higher)}
        await lower.execute("COMMIT")
        assert both & (await refresh_horizon(relay_connection, *drawn)).running == still
        await higher.execute("COMMIT")
        assert not both & (await refresh_horizon(relay_connection, *drawn)).running


async def test_reads_above_an_idle_transaction_fall_back_once_it_commits(
    pool: Pool, database: Database, relay_connection: Connection
) -> None:
    await make_sessions(pool, "idle")
    async with open_transaction(database) as idle:
        await append(idle, TENANT, "idle", [message("slow")])
        await append_messages(pool, "busy", ["quick"] * 5)
        drawn = await draw_horizon(relay_connection, above=NOTHING_KNOWN)
        assert drawn is not None
        horizon = await refresh_horizon(relay_connection, *drawn)
        await delete_published_rows(relay_connection, await read_ids(relay_connection))
        start = ReadPosition(low=horizon.last_id + 1, base=0, running=horizon.running)
        assert await read_ids(relay_connection, start) == []
        await idle.execute("COMMIT")
    assert len(await read_ids(relay_connection, start)) == 1


async def test_a_transaction_that_rolls_back_is_never_found(
    pool: Pool, database: Database, relay_connection: Connection
) -> None:
    await make_sessions(pool, "s")
    async with open_transaction(database) as doomed:
        await append(doomed, TENANT, "s", [message("never")])
    await append_messages(pool, "s", ["kept"])
    assert len(await read_ids(relay_connection)) == 1


async def test_the_watch_gives_a_horizon_although_a_transaction_stays_idle(
    pool: Pool, database: Database, relay_connection: Connection
) -> None:
    await make_sessions(pool, "idle")
    async with open_transaction(database) as idle:
        await append(idle, TENANT, "idle", [message("slow")])
        await append_messages(pool, "busy", ["quick"])
        watch = HorizonTracker(relay_connection)

        async def newest() -> EndedTransactionsHorizon | None:
            horizon = await watch.newest_horizon()
            return horizon if horizon.last_id else None

        xid = await xid_of(idle)
        assert xid in (await eventually(newest)).running
        await idle.execute("COMMIT")

        async def clean() -> bool:
            return xid not in (await watch.newest_horizon()).running

        await eventually(clean)


async def test_an_old_snapshot_does_not_make_reads_step_over_deleted_rows(
    pool: Pool, database: Database, relay_connection: Connection
) -> None:
    await append_messages(pool, "s", ["x"] * 50)
    old = await asyncpg.connect(database.superuser_dsn)
    await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await old.fetchval("SELECT count(*) FROM flotilla.event_outbox")
    await delete_published_rows(relay_connection, await read_ids(relay_connection))
    watch = HorizonTracker(relay_connection)

    async def newest() -> EndedTransactionsHorizon | None:
        horizon = await watch.newest_horizon()
        return horizon if horizon.last_id else None

    horizon = await eventually(newest)
    here = await relay_connection.fetchval(
        "SELECT array_agg(backend_xid::text::bigint) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_xid IS NOT NULL"
    )
    await old.close()
    assert not horizon.running & set(here or ()), "a reader's snapshot must not hold the horizon back"


async def test_parked_sessions_stay_out_of_reads(
    pool: Pool, superuser: Connection, relay_connection: Connection
) -> None:
    await append_messages(pool, "parked", ["x"] * 3)
    await append_messages(pool, "free", ["y"] * 2)
    await superuser.execute(
        "INSERT INTO flotilla.outbox_parked (tenant_id, session_id, lane, outbox_id, seq, event_id, error) "
        "SELECT tenant_id, session_id, lane, id, seq, event_id, '' FROM flotilla.event_outbox ORDER BY id LIMIT 1"
    )
    page = await read(relay_connection)
    assert [key for rows in page.lanes for key in rows.keys] == [b"default/free"] * 2


async def test_reads_walk_the_primary_key_whatever_the_statistics_say(
    pool: Pool, superuser: Connection, relay_connection: Connection
) -> None:
    await superuser.execute("ANALYZE flotilla.event_outbox")
    await append_messages(pool, "s", ["x"] * 20)
    await superuser.execute("ANALYZE flotilla.event_outbox")
    plan = await relay_connection.fetch("EXPLAIN " + SELECT_OUTBOX_PAGE, LANES, 0, 0, [], 5000, 8_000_000)
    scans = [line for (line,) in plan if "event_outbox" in line and "Scan" in line]
    assert len(scans) == 1
    assert "Index Scan using event_outbox_pkey" in scans[0]


async def test_deleting_gives_way_to_nobody(pool: Pool, relay_pool: Pool) -> None:
    """Two owners of a lane may both delete the same acknowledged rows."""
    await append_messages(pool, "s", ["x"] * 10)
    async with relay_pool.acquire() as one, relay_pool.acquire() as other:
        ids = await read_ids(one)
        await asyncio.gather(delete_published_rows(one, ids), delete_published_rows(other, ids))
        assert await read_ids(one) == []
