"""`flotilla outbox` and `flotilla audit parked` where there is something to see and to do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from flotilla.contracts.names import SESSION_EVENTS_TOPIC
from flotilla.kafka.client import kafka_client_arguments
from flotilla.outbox import append
from flotilla.postgres import set_tenant
from tests.e2e.fleet import Fleet
from tests.integration.cli.api import until
from tests.support.session_events import TENANT, create_session, message

Unique = Callable[[str], str]
SIZE_LIMIT_BYTES = 2_000
TAKE_OUT = """
DELETE FROM flotilla.event_outbox WHERE session_id = $1 AND seq = $2
RETURNING lane, tenant_id, session_id, seq, event_id, body
"""
PUT_BACK = """
INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body) VALUES ($1, $2, $3, $4, $5, $6)
"""


async def test_refused_events_park_their_sessions_until_an_operator_lets_them_go_on(
    fleet: Fleet, unique: Unique
) -> None:
    shortened, patient = unique("shortened"), unique("patient")
    async with small_events_only(fleet):
        for session in (shortened, patient):
            await appended(fleet, session, ["x" * 2 * SIZE_LIMIT_BYTES, "the next one"])
        await until(fleet, "/outbox", lambda status: len(status["parked"]) == 2, name="admin")
        parked = fleet.cli_json("outbox", "status")["parked"]
        assert {(row["session_id"], row["seq"], row["waiting"]) for row in parked} == {
            (shortened, 1, 2),
            (patient, 1, 2),
        }
        assert patient in fleet.cli("outbox", "status").stdout
        fleet.cli("outbox", "redrive", shortened, "--tombstone")
        await until(fleet, "/outbox", lambda status: only_parked(status, patient), name="admin")
        assert kinds(fleet, shortened) == ["error", "message"]
    fleet.cli("outbox", "redrive", patient)
    await until(fleet, "/outbox", lambda status: not status["parked"] and not status["backlog_rows"], name="admin")
    assert kinds(fleet, patient) == ["message", "message"]
    assert fleet.cli("outbox", "redrive", patient, check=False).returncode == 3


async def test_events_behind_a_gap_wait_until_it_is_filled(fleet: Fleet, unique: Unique) -> None:
    session = unique("gap")
    missing = await appended(fleet, session, ["one", "two", "three"], without=2)
    await until(fleet, "/audit/parked", lambda page: page["parked"], name="admin")
    parked = fleet.cli_json("audit", "parked", "list")["parked"]
    assert [(row["session_id"], row["reason"], row["first_seq"], row["events"]) for row in parked] == [
        (session, "gap", 3, 1)
    ]
    assert session in fleet.cli("audit", "parked", "list").stdout
    assert fleet.cli_json("audit", "parked", "retry", session)["outcome"] == {
        "ok": True,
        "projected": 0,
        "still_parked": True,
    }
    async with superuser(fleet) as connection:
        await connection.execute(PUT_BACK, *missing)
    await until(fleet, "/audit/parked", lambda page: not page["parked"], name="admin")
    events = fleet.cli_json("sessions", "events", session)["events"]
    assert [event["data"]["content"] for event in events] == ["one", "two", "three"]
    assert fleet.cli("audit", "parked", "retry", session, check=False).returncode == 3


async def appended(fleet: Fleet, session: str, texts: list[str], *, without: int = 0) -> list[object]:
    """A new session with these messages; the event `without` is taken out of the outbox before anybody sees it."""
    async with superuser(fleet) as connection, connection.transaction():
        await set_tenant(connection, TENANT)
        await create_session(connection, session)
        await append(connection, TENANT, session, [message(text) for text in texts])
        return list(await connection.fetchrow(TAKE_OUT, session, without) or ())


def only_parked(status: dict[str, Any], session: str) -> bool:
    """One session is, and nothing else waits."""
    return [row["session_id"] for row in status["parked"]] == [session] and not status["backlog_rows"]


def kinds(fleet: Fleet, session: str) -> list[str]:
    """What the session's history consists of."""
    events = fleet.cli_json("sessions", "events", session)["events"]
    return [event["type"].split(".")[2] for event in events]


@asynccontextmanager
async def superuser(fleet: Fleet) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that sees everything."""
    port = fleet.process("postgres")["ports"]["postgres"]
    connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/flotilla")
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def small_events_only(fleet: Fleet) -> AsyncIterator[None]:
    """Kafka refuses session events above the limit while the block lasts."""
    admin = AIOKafkaAdminClient(**kafka_client_arguments(fleet.kafka_settings()))
    await admin.start()
    try:
        await limit_size(admin, SIZE_LIMIT_BYTES)
        yield
        await limit_size(admin, 1_048_588)
    finally:
        await admin.close()


async def limit_size(admin: AIOKafkaAdminClient, size_bytes: int) -> None:
    """Sets the topic's limit. Kafka takes what is not named here for its default, so everything is named."""
    wanted = {
        "max.message.bytes": str(size_bytes),
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "cleanup.policy": "delete",
    }
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, SESSION_EVENTS_TOPIC, wanted)])
