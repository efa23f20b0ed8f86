"""The relay as a process: readiness, metrics, SIGTERM, kill -9, SIGSTOP, wrong settings."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import pytest

from flotilla.config import KafkaSettings
from flotilla.kafka.topics import ensure_topics
from flotilla.postgres import Connection, Pool
from flotilla_devstack import RunningStack, ServiceProcess
from flotilla_devstack import http as local_http
from tests.support.postgres import Database
from tests.support.session_events import append_messages, first_occurrences, in_order, key_of, read_topic
from tests.support.waiting import busyness, eventually

Backlog = Callable[[], Awaitable[int]]
MakeRelay = Callable[[], ServiceProcess]


def database_name(database: Database) -> str:
    return urlsplit(database.superuser_dsn).path.removeprefix("/")


def environment(kafka: KafkaSettings) -> dict[str, str]:
    return {
        "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": kafka.kafka_bootstrap_servers,
        "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": kafka.kafka_session_events_topic,
        "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": kafka.kafka_checkpoints_topic,
    }


@pytest.fixture
def make_relay(stack: RunningStack, database: Database, kafka: KafkaSettings) -> Iterator[MakeRelay]:
    """Relay processes on this test's database and topic, not started yet."""
    made: list[ServiceProcess] = []

    def make() -> ServiceProcess:
        made.append(stack.service("outbox-relay", database=database_name(database), env=environment(kafka)))
        return made[-1]

    yield make
    for process in made:
        process.stop()


async def started(process: ServiceProcess) -> ServiceProcess:
    process.start()
    await asyncio.to_thread(process.wait_ready)
    return process


async def lanes_of(superuser: Connection, process: ServiceProcess) -> int:
    return int(
        await superuser.fetchval(
            "SELECT count(*) FROM flotilla_ops.leases "
            "WHERE name LIKE 'outbox.lane.%' AND owner LIKE $1 AND expires_at > clock_timestamp()",
            f"%-{process.pid}",
        )
    )


async def has_lanes(superuser: Connection, process: ServiceProcess, count: int, timeout_s: float = 10) -> None:
    async def so_many() -> bool:
        return await lanes_of(superuser, process) == count

    await eventually(so_many, timeout_s=timeout_s)


async def drained(backlog: Backlog) -> None:
    async def empty() -> bool:
        return await backlog() == 0

    await eventually(empty, timeout_s=20)


def metric(process: ServiceProcess, name: str) -> float:
    _, text = local_http.get(process.ports["metrics"], "/metrics")
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_it_relays_reports_and_leaves_on_sigterm(
    make_relay: MakeRelay, pool: Pool, kafka: KafkaSettings, superuser: Connection, backlog: Backlog
) -> None:
    relay = await started(make_relay())
    ids = await append_messages(pool, "s", ["one", "two", "three"])
    await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key_of("s"): in_order(ids)}
    assert metric(relay, "flotilla_outbox_published_total") == 3
    assert metric(relay, "flotilla_outbox_publish_delay_seconds_count") >= 1
    await eventually(lambda: metric(relay, "flotilla_outbox_backlog_rows") == 0, timeout_s=20)
    assert metric(relay, "flotilla_outbox_parked_keys") == 0
    relay.terminate()
    assert await asyncio.to_thread(relay.wait_exit, 10) == 0
    assert await superuser.fetchval("SELECT count(*) FROM flotilla_ops.leases WHERE owner <> ''") == 0


async def test_a_killed_relay_is_succeeded_within_seven_seconds(
    make_relay: MakeRelay, pool: Pool, kafka: KafkaSettings, superuser: Connection, backlog: Backlog
) -> None:
    victim, heir = await started(make_relay()), make_relay()
    await has_lanes(superuser, victim, 12)
    await started(heir)
    await has_lanes(superuser, heir, 6)
    expected = {name: await append_messages(pool, name, ["before"]) for name in ("a", "b", "c", "d")}
    await asyncio.to_thread(victim.kill)
    killed_at = time.monotonic()
    for name in expected:
        expected[name] += await append_messages(pool, name, ["after"])
    await has_lanes(superuser, heir, 12)
    assert time.monotonic() - killed_at < 7.0 * busyness()
    await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key_of(name): in_order(ids) for name, ids in expected.items()}


async def test_a_relay_paused_past_its_lease_and_woken_keeps_the_order(
    make_relay: MakeRelay, pool: Pool, kafka: KafkaSettings, superuser: Connection, backlog: Backlog
) -> None:
    names = [f"s{number}" for number in range(6)]
    sleeper = await started(make_relay())
    await has_lanes(superuser, sleeper, 12)
    writing = [asyncio.create_task(append_messages(pool, name, map(str, range(300)))) for name in names]
    await eventually(lambda: metric(sleeper, "flotilla_outbox_published_total") > 50, timeout_s=20)
    sleeper.pause()
    heir = await started(make_relay())
    await has_lanes(superuser, heir, 12)
    sleeper.resume()
    written = await asyncio.gather(*writing)
    await drained(backlog)
    await has_lanes(superuser, sleeper, 6)
    assert first_occurrences(await read_topic(kafka)) == {
        key_of(name): in_order(ids) for name, ids in zip(names, written, strict=True)
    }


async def test_only_the_holder_of_lane_zero_reports_the_backlog(
    make_relay: MakeRelay, superuser: Connection, pool: Pool, kafka: KafkaSettings
) -> None:
    relays = [await started(make_relay()), await started(make_relay())]
    for relay in relays:
        await has_lanes(superuser, relay, 6)
    owner = await superuser.fetchval("SELECT owner FROM flotilla_ops.leases WHERE name = 'outbox.lane.00'")
    holder, other = sorted(relays, key=lambda relay: not owner.endswith(f"-{relay.pid}"))
    await append_messages(pool, "parked", ["x"])
    await superuser.execute(
        "INSERT INTO flotilla.outbox_parked (tenant_id, session_id, lane, outbox_id, seq, event_id, error) "
        "VALUES ('default', 'somebody', 0, 1, 1, gen_random_uuid(), '')"
    )
    await eventually(lambda: metric(holder, "flotilla_outbox_parked_keys") == 1, timeout_s=20)
    assert metric(other, "flotilla_outbox_parked_keys") == 0


async def test_without_kafka_it_waits_and_says_why(
    stack: RunningStack, database: Database, make_relay: MakeRelay
) -> None:
    relay = stack.service(
        "outbox-relay",
        database=database_name(database),
        env={"FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
    )
    relay.start()
    try:
        await eventually(lambda: "127.0.0.1:1" in local_http.get(relay.ports["metrics"], "/readyz")[1], timeout_s=40)
        assert local_http.get(relay.ports["metrics"], "/livez")[0] == 200
    finally:
        relay.stop()
    assert relay.returncode == 0


async def test_it_waits_for_the_installer_to_make_the_topics(
    stack: RunningStack, database: Database, kafka_bootstrap: str, unique: Callable[[str], str]
) -> None:
    kafka = KafkaSettings(
        kafka_bootstrap_servers=kafka_bootstrap,
        kafka_session_events_topic=unique("later"),
        kafka_checkpoints_topic=unique("later-checkpoints"),
    )
    relay = stack.service("outbox-relay", database=database_name(database), env=environment(kafka))
    relay.start()
    try:
        await eventually(
            lambda: "flotilla.install" in local_http.get(relay.ports["metrics"], "/readyz")[1], timeout_s=40
        )
        await ensure_topics(kafka)
        await asyncio.to_thread(relay.wait_ready)
    finally:
        relay.stop()


async def test_a_wrong_topic_ends_it_with_the_hint(
    stack: RunningStack, database: Database, kafka: KafkaSettings
) -> None:
    wrong = environment(kafka) | {"FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": kafka.kafka_checkpoints_topic}
    relay = stack.service("outbox-relay", database=database_name(database), env=wrong)
    relay.start()
    assert await asyncio.to_thread(relay.wait_exit, 20) == 2
    assert "1 partitions, 12 are needed" in relay.log_text()
