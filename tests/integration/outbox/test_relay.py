"""The relay on a real database and a real Kafka: order, completeness, and who may hold up whom."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import asyncpg
import pytest

from flotilla.config import KafkaSettings
from flotilla.kafka.lanes import lane_of_session
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, set_tenant, tenant_transaction
from flotilla.telemetry.metrics import OUTBOX_PUBLISHED
from outbox_relay.leases import LaneLeases
from outbox_relay.relay import RelayOptions
from outbox_relay.rows import read_outbox_page
from tests.integration.outbox.conftest import StartRelay
from tests.support.postgres import Database
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

Backlog = Callable[[], Awaitable[int]]
NO_SWEEP = RelayOptions(sweep_s=1e9)


class EveryLane(LaneLeases):
    """Owns every lane whatever others do, as a relay does that was paused and doesn't know it yet."""

    async def renew(self, busy: Collection[int] = ()) -> None:
        self.owned = frozenset(range(12))


async def drained(backlog: Backlog) -> None:
    async def empty() -> bool:
        return await backlog() == 0

    await eventually(empty, timeout_s=60)


async def write_sessions(pool: Pool, names: list[str], events_each: int) -> dict[str, list[str]]:
    """Writes to several sessions at once; returns each key's event ids in order."""
    texts = [f"event {number}" for number in range(events_each)]
    written = await asyncio.gather(*(append_messages(pool, name, texts) for name in names))
    return {key_of(name): ids for name, ids in zip(names, written, strict=True)}


async def test_committed_events_arrive_in_order_byte_for_byte(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog, superuser: Connection
) -> None:
    names = [f"s{number}" for number in range(20)]
    expected = await write_sessions(pool, names, 10)
    bodies = [row["body"] for row in await superuser.fetch("SELECT body FROM flotilla.event_outbox")]
    async with start_relay():
        await drained(backlog)
    log = await read_topic(kafka)
    assert first_occurrences(log) == {key: in_order(ids) for key, ids in expected.items()}
    assert sorted(logged.body for logged in log) == sorted(bodies)
    assert {logged.partition == lane_of_session(TENANT, logged.session) for logged in log} == {True}
    assert {logged.headers["content-type"] for logged in log} == {b"application/cloudevents+json; charset=UTF-8"}


async def test_events_appended_while_it_runs_are_counted_once_and_not_doubled(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    before = OUTBOX_PUBLISHED._value.get()
    async with start_relay():
        await write_sessions(pool, ["a", "b", "c"], 50)
        await drained(backlog)
    assert len(await read_topic(kafka)) == 150
    assert OUTBOX_PUBLISHED._value.get() - before == 150


async def test_nothing_of_a_rolled_back_transaction_arrives(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    async with start_relay():
        expected = await append_messages(pool, "s", ["one"])
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await set_tenant(connection, TENANT)
            await append(connection, TENANT, "s", [message("never")])
            await transaction.rollback()
        expected += await append_messages(pool, "s", ["two"])
        await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key_of("s"): in_order(expected)}


async def test_a_transaction_that_commits_long_after_later_ones_is_delivered(
    pool: Pool, database: Database, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    """Its rows lie far below where reads begin by then; no sweep comes to the rescue."""
    async with tenant_transaction(pool, TENANT) as connection:
        await create_session(connection, "late")
    late = await asyncpg.connect(database.dsn())
    async with start_relay(options=NO_SWEEP) as relay:
        await late.execute("BEGIN")
        await set_tenant(late, TENANT)
        appended = await append(late, TENANT, "late", [message("drawn first"), message("drawn second")])
        await append_messages(pool, "early", ["x"] * 20)

        async def reads_begin_above_it() -> bool:
            view = relay._database
            return view is not None and view.starts.read_position(range(12)).low > 2

        await eventually(reads_begin_above_it, timeout_s=30)
        await drained(backlog)  # what it holds back is its own rows only
        await late.execute("COMMIT")
        await late.close()
        await append_messages(pool, "late", ["committed after it"])
        await drained(backlog)
    log = first_occurrences(await read_topic(kafka))
    assert [event_id for _, event_id in log[key_of("late")][:2]] == [event.id for event in appended.events]
    assert [seq for seq, _ in log[key_of("late")]] == [1, 2, 3]


async def test_one_idle_in_transaction_stops_nobody_else(
    pool: Pool, database: Database, kafka: KafkaSettings, start_relay: StartRelay
) -> None:
    same_lane = next(
        f"s{n}" for n in range(1000) if lane_of_session(TENANT, f"s{n}") == lane_of_session(TENANT, "idle")
    )
    async with tenant_transaction(pool, TENANT) as connection:
        await create_session(connection, "idle")
    idle = await asyncpg.connect(database.dsn())
    await idle.execute("BEGIN")
    await set_tenant(idle, TENANT)
    await append(idle, TENANT, "idle", [message("not yet")])
    async with start_relay():
        expected = await append_messages(pool, same_lane, ["goes through"])

        async def arrived() -> bool:
            return first_occurrences(await read_topic(kafka)) == {key_of(same_lane): in_order(expected)}

        await eventually(arrived)
    await idle.close()


async def test_two_owners_of_every_lane_keep_first_occurrences_in_order(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    """Red when a relay publishes from anywhere else than a lane's lowest undeleted row."""
    names = [f"s{number}" for number in range(8)]
    slow = RelayOptions(max_rows=7)
    async with (
        start_relay("one", options=slow, leases=EveryLane),
        start_relay("other", options=slow, leases=EveryLane),
    ):
        expected = await write_sessions(pool, names, 60)
        await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key: in_order(ids) for key, ids in expected.items()}


async def test_two_relays_share_the_lanes_and_neither_doubles(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    async with start_relay("one") as one, start_relay("other") as other:
        await eventually(lambda: len(one._leases.owned) == len(other._leases.owned) == 6)
        await write_sessions(pool, [f"s{number}" for number in range(24)], 5)
        await drained(backlog)
    assert len(await read_topic(kafka)) == 24 * 5


async def test_a_relay_that_stops_hands_its_lanes_over_at_once(
    pool: Pool, start_relay: StartRelay, superuser: Connection
) -> None:
    async with start_relay("one") as one:
        await eventually(lambda: len(one._leases.owned) == 12)
    holding = await superuser.fetchval(
        "SELECT count(*) FROM flotilla_ops.leases WHERE name LIKE 'outbox.%' AND expires_at > clock_timestamp()"
    )
    assert holding == 0


async def test_pages_of_large_events_stay_within_the_bytes_allowed(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []

    async def noted(*arguments: object, **limits: int) -> object:
        page = await read_outbox_page(*arguments, **limits)  # type: ignore[arg-type]
        pages.append(sum(len(body) for rows in page.lanes for body in rows.bodies))
        return page

    monkeypatch.setattr("outbox_relay.relay.read_outbox_page", noted)
    ids = await append_messages(pool, "s", ["x" * 850_000] * 6)
    async with start_relay(options=RelayOptions(max_bytes=2_000_000)):
        await drained(backlog)
    assert max(pages) < 2_000_000 + 900_000
    assert first_occurrences(await read_topic(kafka)) == {key_of("s"): in_order(ids)}


async def test_a_lost_database_connection_loses_no_event(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog, superuser: Connection
) -> None:
    async with start_relay():
        expected = await append_messages(pool, "s", ["before"])
        await drained(backlog)
        for _ in range(5):
            await superuser.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'outbox-relay' AND datname = current_database()"
            )
            expected += await append_messages(pool, "s", ["x"] * 10)
        await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key_of("s"): in_order(expected)}
