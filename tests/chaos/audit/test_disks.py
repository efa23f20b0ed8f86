"""Kafka's disk goes back to an earlier state, or is full and emptied again, while a fleet is at work."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flotilla.config import KafkaSettings
from flotilla.eventstore import AgentEventStore
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import open_pool
from flotilla_devstack import RunningStack, ServiceProcess
from flotilla_devstack.servers.kafka import KafkaServer
from tests.support.audit import Projected, audit_settings, events_of, publish, running_audit
from tests.support.audit_fixtures import projected
from tests.support.postgres import Database
from tests.support.session_events import message
from tests.support.waiting import eventually

__all__ = ["projected"]
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

DISK = "96m"
OTHERS = [f"x{n}" for n in range(200) if lane_of_session("default", f"x{n}") == lane_of_session("default", "s1")][:3]


async def start(server: KafkaServer) -> None:
    server.start()
    await asyncio.to_thread(server.wait_ready)


async def test_what_follows_on_a_disk_that_went_back_is_projected(
    own_kafka: KafkaServer, harmed_kafka: KafkaSettings, database: Database, projected: Projected, tmp_path: Path
) -> None:
    data, before = own_kafka.folder / "data", tmp_path / "before"
    events = events_of("s1", range(1, 21))
    async with running_audit(audit_settings(database, harmed_kafka, tmp_path)):
        await publish(harmed_kafka, events[:12])
        await projected.until("s1", 12)
        await asyncio.to_thread(own_kafka.stop)
        shutil.copytree(data, before)
        await start(own_kafka)
        await publish(harmed_kafka, events[12:])
        await projected.until("s1", 20, 60)
        await asyncio.to_thread(own_kafka.kill)
        shutil.rmtree(data)
        shutil.copytree(before, data)
        await start(own_kafka)
        # Ten of these have the offsets that the lost events had.
        await publish(harmed_kafka, [event for session in OTHERS for event in events_of(session, range(1, 11))])
        for session in OTHERS:
            assert await projected.until(session, 10, 60) == list(range(1, 11))
    assert await projected.seqs("s1") == list(range(1, 21))


@pytest.fixture
def small_disk(own_kafka: KafkaServer) -> Iterator[Path]:
    """Kafka's data on a file system of its own, which is soon full."""
    data = own_kafka.folder / "data"
    aside = data.with_name("data.aside")
    own_kafka.stop()
    data.rename(aside)
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(data)], check=True)
    try:
        shutil.copytree(aside, data, dirs_exist_ok=True)
        own_kafka.start()
        own_kafka.wait_ready()
        yield data
        own_kafka.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(data)], check=True)
        data.rmdir()
        aside.rename(data)


@pytest.fixture
async def relay(
    stack: RunningStack, database: Database, small_disk: Path, harmed_kafka: KafkaSettings
) -> AsyncIterator[ServiceProcess]:
    assert small_disk.is_mount()  # noqa: ASYNC240 - a stat of a folder
    process = stack.service(
        "outbox-relay",
        env={
            "FLOTILLA_POSTGRES_DSN": database.dsn("flotilla_relay"),
            "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": harmed_kafka.kafka_bootstrap_servers,
            "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": harmed_kafka.kafka_session_events_topic,
            "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": harmed_kafka.kafka_checkpoints_topic,
            "FLOTILLA_RELAY_SEND_TIMEOUT_S": "3",
        },
    )
    process.start()
    await asyncio.to_thread(process.wait_ready)
    yield process
    process.stop()


@pytest.fixture
async def store(database: Database) -> AsyncIterator[AgentEventStore]:
    async with open_pool(database.dsn(), application="test") as pool:
        yield AgentEventStore(pool)


async def test_a_full_disk_that_is_emptied_again_loses_and_doubles_nothing(
    relay: ServiceProcess,
    own_kafka: KafkaServer,
    small_disk: Path,
    *,
    harmed_kafka: KafkaSettings,
    database: Database,
    projected: Projected,
    store: AgentEventStore,
    tmp_path: Path,
) -> None:
    await store.ensure_session("s1", "ada")
    async with running_audit(audit_settings(database, harmed_kafka, tmp_path)):
        await store.append("s1", [message("before")])
        await projected.until("s1", 1, 60)
        filler = small_disk / "filler"
        fill(filler)
        for _ in range(200):
            await store.append("s1", [message("x" * 50_000)])
        await eventually(lambda: not own_kafka.is_running() or "producer_restarts" in relay.log_text(), 120)
        filler.unlink()
        if not own_kafka.is_running():
            await start(own_kafka)
        await store.append("s1", [message("after")])
        assert await projected.until("s1", 202, 120) == list(range(1, 203))
    assert await projected.parked() == []
    assert relay.is_running(), relay.log_text()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 65_536):
            pass
