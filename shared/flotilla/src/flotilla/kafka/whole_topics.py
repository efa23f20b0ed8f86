"""Reads topics from end to end, and writes records to the offsets that they had: for backups."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import RetryLater
from flotilla.kafka.client import CONNECT_TIMEOUT_S, kafka_client_arguments
from flotilla.kafka.session_log import ANSWER_TIMEOUT_S, MAX_FETCH_BYTES, read_batches_until


@dataclass(frozen=True, slots=True)
class PartitionExtent:
    """What Kafka has of a partition: offsets from `start` to below `end`."""

    partition: int
    start: int
    end: int


class TopicReader(AbstractAsyncContextManager["TopicReader"]):
    """One connection that reads one partition after the other.

    Raises:
        RetryLater: Kafka does not answer.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Self:
        consumer = AIOKafkaConsumer(
            **kafka_client_arguments(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=MAX_FETCH_BYTES,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await consumer.stop()
            raise self._kafka_unavailable_error(error) from error
        self._consumer = consumer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._open_consumer.stop()

    @property
    def _open_consumer(self) -> AIOKafkaConsumer:
        assert self._consumer is not None  # noqa: S101 - used in a `with` block
        return self._consumer

    async def load_partition_extents(self, topic: str, partitions: Iterable[int]) -> list[PartitionExtent]:
        """Where each partition begins and ends now."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                starts = await self._open_consumer.beginning_offsets(places)
                ends = await self._open_consumer.end_offsets(places)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._kafka_unavailable_error(error) from error
        return [PartitionExtent(place.partition, int(starts[place]), int(ends[place])) for place in places]

    async def read_batches(
        self, topic: str, extent: PartitionExtent
    ) -> AsyncIterator[Sequence["ConsumerRecord[bytes, bytes]"]]:
        """All records of the extent, in order."""
        place = TopicPartition(topic, extent.partition)
        self._open_consumer.assign([place])
        self._open_consumer.seek(place, extent.start)
        try:
            async for batch in read_batches_until(self._open_consumer, place, extent.end):
                yield batch
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._kafka_unavailable_error(error) from error

    def _kafka_unavailable_error(self, error: BaseException) -> RetryLater:
        reason = str(error) or type(error).__name__
        return RetryLater(f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer: {reason}")
