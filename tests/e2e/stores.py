"""Looks into the stores behind the services' backs."""

from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from flotilla.contracts import AgentEvent
from flotilla.contracts.envelope import decode_event
from flotilla.contracts.names import session_key
from flotilla.kafka.client import kafka_client_arguments
from tests.e2e.fleet import Fleet

_PROJECTED = """
SELECT seq, event_id::text AS event_id FROM audit.session_events
WHERE tenant_id = 'default' AND session_id = $1 ORDER BY seq
"""
_OUTBOX = "SELECT count(*) FROM flotilla.event_outbox WHERE tenant_id = 'default' AND session_id = $1"


def superuser_dsn(fleet: Fleet) -> str:
    """The fleet's database, for its superuser."""
    port = fleet.process("postgres")["ports"]["postgres"]
    return f"postgresql://postgres@127.0.0.1:{port}/flotilla"


async def query(fleet: Fleet, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    """Rows seen by the database's superuser."""
    connection = await asyncpg.connect(superuser_dsn(fleet))
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def projected_events(fleet: Fleet, session_id: str) -> list[asyncpg.Record]:
    return await query(fleet, _PROJECTED, session_id)


async def outbox_rows(fleet: Fleet, session_id: str) -> int:
    return int((await query(fleet, _OUTBOX, session_id))[0][0])


async def kafka_events(fleet: Fleet, topic: str, partition: int, session_id: str) -> list[AgentEvent]:
    """First occurrences of a session's events in its partition, in the order of the log."""
    consumer = AIOKafkaConsumer(**kafka_client_arguments(fleet.kafka_settings()), auto_offset_reset="earliest")
    await consumer.start()
    try:
        assigned = TopicPartition(topic, partition)
        consumer.assign([assigned])
        end = (await consumer.end_offsets([assigned]))[assigned]
        await consumer.seek_to_beginning(assigned)
        seen: dict[str, AgentEvent] = {}
        while await consumer.position(assigned) < end:
            batch = await consumer.getmany(assigned, timeout_ms=500)
            for record in batch.get(assigned, []):
                if record.key == session_key("default", session_id).encode():
                    event = decode_event(record.value or b"")
                    seen.setdefault(event.id, event)
        return list(seen.values())
    finally:
        await consumer.stop()
