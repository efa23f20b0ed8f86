"""Events of about 500 bytes into the outbox, all at once or paced, and their arrival in Kafka."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from flotilla.config import KafkaSettings
from flotilla.contracts import AgentEvent
from flotilla.contracts.envelope import encode_event
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.kafka.lanes import lane_of_session

SESSIONS = [f"session-{number}" for number in range(1200)]
LANES = [lane_of_session("default", session) for session in SESSIONS]
_BODY = encode_event(
    AgentEvent(
        type="flotilla.session.message.v1",
        source="/benchmarks",
        subject=SESSIONS[0],
        tenant="default",
        sequence=1,
        data={"role": "user", "content": "x" * 180},
    )
)
_FILL = """
INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body)
SELECT ($2::smallint[])[n % 1200 + 1], 'default', ($3::text[])[n % 1200 + 1], n, gen_random_uuid(), $4
FROM generate_series(1, $1::int) AS n
"""
_ONE = """
INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body)
VALUES ($1, 'default', $2, 1, $3, $4)
"""


async def fill(dsn: str, events: int) -> None:
    """All of them, in one transaction."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(_FILL, events, LANES, SESSIONS, _BODY, timeout=300)
    await connection.close()


async def clear(dsn: str) -> None:
    """For peers that leave the rows where they are."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("TRUNCATE flotilla.event_outbox")
    await connection.close()


class Arrivals:
    """A consumer of every partition of one topic."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    async def count(self) -> int:
        """Records in Kafka so far."""
        return sum((await self._consumer.end_offsets(self._partitions)).values())

    async def until(self, records: int, timeout_s: float) -> None:
        """Returns once so many are there."""
        async with asyncio.timeout(timeout_s):
            while await self.count() < records:  # noqa: ASYNC110 - Kafka tells nobody
                await asyncio.sleep(0.01)

    async def delays_ms(self, dsn: str, *, rate: float, seconds: float) -> list[float]:
        """From each commit to this consumer, in milliseconds, sorted."""
        await self._consumer.seek_to_end(*self._partitions)
        for partition in self._partitions:
            await self._consumer.position(partition)
        committed: dict[str, float] = {}
        arrived: dict[str, float] = {}
        writing = asyncio.create_task(_write(dsn, rate, seconds, committed))
        async with asyncio.timeout(seconds + 60):
            while not writing.done() or len(arrived) < len(committed):
                for records in (await self._consumer.getmany(timeout_ms=50)).values():
                    now = time.perf_counter()
                    arrived |= {(record.value or b"")[-36:].decode(): now for record in records}
        await writing
        return sorted((arrived[key] - committed[key]) * 1000 for key in committed)


async def _write(dsn: str, rate: float, seconds: float, committed: dict[str, float]) -> None:
    pool = asyncpg.create_pool(dsn, min_size=8, max_size=8)
    await pool
    began = time.perf_counter()

    async def one(number: int) -> None:
        event_id = str(uuid.uuid4())
        place = number % len(SESSIONS)
        # The id stands at the end of the bytes as well: cheap to find for the consumer.
        await pool.execute(_ONE, LANES[place], SESSIONS[place], uuid.UUID(event_id), _BODY + event_id.encode())
        committed[event_id] = time.perf_counter()

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            group.create_task(one(number))
    await pool.close()


@asynccontextmanager
async def arrivals(kafka: KafkaSettings) -> AsyncIterator[Arrivals]:
    """Listens to one topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.kafka_bootstrap_servers, fetch_max_wait_ms=100)
    await consumer.start()
    try:
        numbers = range(SESSION_EVENTS_PARTITIONS)
        partitions = [TopicPartition(kafka.kafka_session_events_topic, number) for number in numbers]
        consumer.assign(partitions)
        yield Arrivals(consumer, partitions)
    finally:
        await consumer.stop()


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began
