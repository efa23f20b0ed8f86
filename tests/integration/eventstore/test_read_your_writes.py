"""The writer of an event reads it, wherever it is by now: outbox, Kafka or projection. Never a shorter list."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from flotilla.config import KafkaSettings
from flotilla.contracts.envelope import encode_event
from flotilla.contracts.errors import RetryLater
from flotilla.eventstore import AgentEventStore
from flotilla.kafka.session_log import KafkaEventLog, open_kafka_log
from flotilla.postgres import Pool
from tests.support.audit import (
    Projected,
    event_at,
    outbox_bodies,
    project_directly,
    publish,
    publish_bodies,
    records_of,
    relay_all,
)
from tests.support.postgres import Database
from tests.support.session_events import message

EMPTY_OUTBOX = "DELETE FROM flotilla.event_outbox"


@pytest.fixture
async def log(kafka: KafkaSettings) -> AsyncIterator[KafkaEventLog]:
    async with open_kafka_log(kafka) as opened:
        yield opened


@pytest.fixture
async def store(pool: Pool, log: KafkaEventLog) -> AgentEventStore:
    opened = AgentEventStore(pool, kafka=log)
    await opened.ensure_session("s1", "ada")
    return opened


async def seqs(store: AgentEventStore, session_id: str = "s1") -> list[int | None]:
    return [event.sequence for event in await store.replay(session_id)]


async def test_with_the_audit_consumer_stopped_every_event_is_read_in_order(
    store: AgentEventStore, database: Database, kafka: KafkaSettings, audit_pool: Pool
) -> None:
    await store.append("s1", [message(str(number)) for number in range(10)])
    await project_directly(audit_pool, records_of(await outbox_bodies(database)))
    await relay_all(database, kafka)
    await store.append("s1", [message(str(number)) for number in range(10, 20)])
    await relay_all(database, kafka)
    await store.append("s1", [message(str(number)) for number in range(20, 25)])
    # 1 to 10 projected, 11 to 20 in Kafka alone, 21 to 25 in the outbox
    events = await store.replay("s1")
    assert [event.sequence for event in events] == list(range(1, 26))
    assert [event.data["content"] for event in events] == [str(number) for number in range(25)]
    assert [event.sequence for event in await store.replay("s1", 15, 22)] == list(range(15, 23))
    assert len((await store.state_at("s1", 18)).messages) == 18


async def test_duplicates_and_other_sessions_in_kafka_do_not_disturb(
    store: AgentEventStore, database: Database, kafka: KafkaSettings
) -> None:
    await store.append("s1", [message(str(number)) for number in range(5)])
    await publish(kafka, [event_at("elsewhere", seq) for seq in range(1, 50)])
    bodies = await outbox_bodies(database)
    await relay_all(database, kafka)
    await publish(kafka, [event_at("s1", 3, "a later event under a taken seq")])
    page = await store.read_page("s1")
    assert page.bodies == [body for _, _, body in bodies]


async def test_the_prefix_of_a_fork_is_read_from_kafka_too(
    store: AgentEventStore, database: Database, kafka: KafkaSettings
) -> None:
    await store.append("s1", [message("a"), message("b"), message("c")])
    await relay_all(database, kafka)
    await store.fork("s1", 2, "s2")
    await store.append("s2", [message("d")])
    await relay_all(database, kafka)
    assert await seqs(store, "s2") == [1, 2, 3, 4]
    assert [said.content for said in (await store.state_at("s2")).messages] == ["a", "b", "d"]


async def test_an_event_that_is_nowhere_is_an_error_and_never_a_shorter_list(
    store: AgentEventStore, projected: Projected
) -> None:
    await store.append("s1", [message("a"), message("b"), message("c")])
    await projected.execute(f"{EMPTY_OUTBOX} WHERE seq = 2")
    for attempt in (store.replay("s1"), store.read_page("s1"), store.state_at("s1"), store.replay("s1", 2, 2)):
        with pytest.raises(RetryLater, match="events 2 to 2 are committed"):
            await attempt
    assert [event.sequence for event in await store.replay("s1", 3, 3)] == [3]


async def test_without_kafka_an_event_on_its_way_is_an_error(pool: Pool, projected: Projected) -> None:
    store = AgentEventStore(pool)
    await store.ensure_session("s1", "ada")
    await store.append("s1", [message("a")])
    await projected.execute(EMPTY_OUTBOX)
    with pytest.raises(RetryLater, match="not projected yet"):
        await store.replay("s1")


async def test_an_event_that_is_projected_a_moment_later_is_waited_for(
    pool: Pool, database: Database, projected: Projected, audit_pool: Pool
) -> None:
    store = AgentEventStore(pool)
    await store.ensure_session("s1", "ada")
    await store.append("s1", [message("a")])
    records = records_of(await outbox_bodies(database))
    await projected.execute(EMPTY_OUTBOX)
    reading = asyncio.create_task(store.replay("s1"))
    await project_directly(audit_pool, records)
    assert [event.sequence for event in await reading] == [1]


async def test_order_is_that_of_seq_whatever_the_producers_clocks_say(
    store: AgentEventStore, audit_pool: Pool, projected: Projected
) -> None:
    backwards = [event_at("s1", seq, time=datetime.now(UTC) - timedelta(hours=seq)) for seq in range(1, 5)]
    await project_directly(audit_pool, records_of(("default", "s1", encode_event(event)) for event in backwards))
    await projected.execute("UPDATE flotilla.sessions SET head_seq = 4 WHERE session_id = 's1'")
    assert await seqs(store) == [1, 2, 3, 4]
    assert [m.content for m in (await store.state_at("s1", 4)).messages] == ["s1 1", "s1 2", "s1 3", "s1 4"]


async def test_kafka_alone_gives_a_session_up_to_the_end_at_the_start(kafka: KafkaSettings, log: KafkaEventLog) -> None:
    events = [event_at("s1", seq) for seq in range(1, 101)]
    await publish(kafka, [event_at("before", 1), *events, event_at("after", 1)])
    logged = await log.read_session_events("default", "s1")
    assert [event.body for event in logged] == [encode_event(event) for event in events]
    assert [event.seq for event in await log.read_session_events("default", "s1", first_seq=10, last_seq=12)] == [
        10,
        11,
        12,
    ]
    assert await log.read_session_events("default", "nobody") == []


async def test_a_kafka_that_is_away_is_an_error_in_time() -> None:
    settings = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1")
    async with open_kafka_log(settings) as log:
        with pytest.raises(RetryLater, match="does not answer"):
            await log.read_session_events("default", "s1")


async def test_records_that_are_not_events_do_not_end_a_read(kafka: KafkaSettings, log: KafkaEventLog) -> None:
    await publish(kafka, [event_at("s1", 1)])
    await publish_bodies(kafka, [("default", "s1", b"junk")])
    await publish(kafka, [event_at("s1", 2)])
    assert [event.seq for event in await log.read_session_events("default", "s1")] == [1, 2]
