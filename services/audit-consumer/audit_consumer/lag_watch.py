"""Looks at the consumer from outside: how far it lags, and whether it is stuck although its servers answer.

A consumer whose fetcher died after a broker restart sees empty polls and feels well. So the ends of the partitions
are asked for on a connection of their own, and compared with the offsets in PostgreSQL.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.kafka.client import kafka_client_arguments
from flotilla.postgres import Pool, retry_later_if_unavailable

ANSWER_TIMEOUT_S = 10.0

_SELECT_OFFSETS = "SELECT kafka_partition, next_offset FROM consumer_offsets"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LagObservation:
    """What one look showed."""

    lags: dict[int, int]
    """Events in Kafka not yet projected, by owned partition."""
    moves: bool


class LagMonitor:
    """Measures lags on its own Kafka connection, and decides whether the consumer moves."""

    def __init__(self, settings: KafkaSettings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._observer: AIOKafkaConsumer | None = None
        self._seen: dict[int, int] = {}

    async def measure_lag(self, owned: Iterable[int]) -> "LagObservation":
        """How far the owned partitions lag, and whether anything moved since the last look, or nothing has to.

        A consumer that owns none is judged by all partitions, for in a group that stands still nobody owns any.

        Raises:
            RetryLater: Kafka or PostgreSQL does not answer: nobody could move.
        """
        mine = set(owned)
        ends, offsets = await self._load_end_offsets(), await self._load_projected_offsets()
        lags = {partition: max(end - offsets.get(partition, 0), 0) for partition, end in ends.items()}
        watched = mine or lags.keys()
        moved = any(offsets.get(partition, 0) != self._seen.get(partition) for partition in watched if lags[partition])
        self._seen = offsets
        idle = not any(lags[partition] for partition in watched)
        return LagObservation({partition: lags[partition] for partition in mine}, moves=moved or idle)

    async def close_kafka(self) -> None:
        """Close the connection to Kafka."""
        if self._observer is not None:
            observer, self._observer = self._observer, None
            await observer.stop()

    async def _load_end_offsets(self) -> Mapping[int, int]:
        topic = self._settings.kafka_session_events_topic
        wanted = [TopicPartition(topic, number) for number in range(SESSION_EVENTS_PARTITIONS)]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                if self._observer is None:
                    self._observer = AIOKafkaConsumer(
                        **kafka_client_arguments(self._settings), enable_auto_commit=False
                    )
                    await self._observer.start()
                ends = await self._observer.end_offsets(wanted)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close_kafka()
            raise RetryLater(
                f"Kafka does not answer: {str(error) or type(error).__name__} (check FLOTILLA_KAFKA_BOOTSTRAP_SERVERS)"
            ) from error
        return {place.partition: int(end) for place, end in ends.items()}

    async def _load_projected_offsets(self) -> dict[int, int]:
        with retry_later_if_unavailable():
            rows = await self._pool.fetch(_SELECT_OFFSETS, timeout=ANSWER_TIMEOUT_S)
        return {row["kafka_partition"]: row["next_offset"] for row in rows}
