"""Session events from both ends: appended in transactions, and read back from Kafka as anybody would."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from flotilla.config import KafkaSettings
from flotilla.contracts import AgentStateEvent
from flotilla.contracts.envelope import decode_event
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS, session_key
from flotilla.kafka.topics import ensure_topics
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, tenant_transaction

TENANT = "default"


@dataclass(frozen=True, slots=True)
class Logged:
    """One record of the session events topic."""

    partition: int
    offset: int
    key: str
    session: str
    seq: int
    event_id: str
    body: bytes
    headers: Mapping[str, bytes]


async def topics_named(bootstrap: str, name: str) -> KafkaSettings:
    """Settings whose two topics are new and carry `name`."""
    settings = KafkaSettings(
        kafka_bootstrap_servers=bootstrap,
        kafka_session_events_topic=name,
        kafka_checkpoints_topic=f"{name}-checkpoints",
    )
    await ensure_topics(settings)
    return settings


def message(text: str, event_id: str | None = None) -> AgentStateEvent:
    """A user's message."""
    return AgentStateEvent(kind="message", data={"role": "user", "content": text}, source="/tests", event_id=event_id)


async def create_session(connection: Connection, session_id: str, tenant_id: str = TENANT) -> None:
    """A session, in the tenant's current transaction."""
    await connection.execute(
        "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'someone')",
        tenant_id,
        session_id,
    )


async def append_messages(pool: Pool, session_id: str, texts: Iterable[str], tenant_id: str = TENANT) -> list[str]:
    """Appends one message per transaction to a session, which is made if it is new; returns their event ids."""
    async with tenant_transaction(pool, tenant_id) as connection:
        if not await connection.fetchval("SELECT 1 FROM flotilla.sessions WHERE session_id = $1", session_id):
            await create_session(connection, session_id, tenant_id)
    ids = []
    for text in texts:
        async with tenant_transaction(pool, tenant_id) as connection:
            appended = await append(connection, tenant_id, session_id, [message(text)])
            ids += [event.id for event in appended.events]
    return ids


async def read_topic(settings: KafkaSettings) -> list[Logged]:
    """Every record from the first to the end at the time of the call, partition by partition in order."""
    async with _consumer(settings) as consumer:
        partitions = [
            TopicPartition(settings.kafka_session_events_topic, number) for number in range(SESSION_EVENTS_PARTITIONS)
        ]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        found: list[Logged] = []
        while len(found) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [_logged(record) for record in records]
    return sorted(found, key=lambda logged: (logged.partition, logged.offset))


def first_occurrences(log: Sequence[Logged]) -> dict[str, list[tuple[int, str]]]:
    """Per key, (seq, event id) in the order in which Kafka first saw them."""
    firsts: dict[str, list[tuple[int, str]]] = defaultdict(list)
    seen = set()
    for logged in log:
        if (logged.key, logged.seq, logged.event_id) not in seen:
            seen.add((logged.key, logged.seq, logged.event_id))
            firsts[logged.key].append((logged.seq, logged.event_id))
    return dict(firsts)


def in_order(event_ids: Sequence[str]) -> list[tuple[int, str]]:
    """What `first_occurrences` gives for a session with exactly these events, from seq 1 on."""
    return list(enumerate(event_ids, start=1))


def key_of(session_id: str, tenant_id: str = TENANT) -> str:
    """The Kafka key of a session."""
    return session_key(tenant_id, session_id)


@asynccontextmanager
async def _consumer(settings: KafkaSettings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        fetch_max_bytes=8_000_000,
        max_partition_fetch_bytes=4_000_000,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def _logged(record: object) -> Logged:
    body: bytes = record.value  # type: ignore[attr-defined]
    event = decode_event(body)
    assert event.sequence is not None
    return Logged(
        partition=record.partition,  # type: ignore[attr-defined]
        offset=record.offset,  # type: ignore[attr-defined]
        key=record.key.decode(),  # type: ignore[attr-defined]
        session=event.subject,
        seq=event.sequence,
        event_id=event.id,
        body=body,
        headers=dict(record.headers),  # type: ignore[attr-defined]
    )
