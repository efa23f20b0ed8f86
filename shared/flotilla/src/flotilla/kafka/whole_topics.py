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
from flotilla.kafka.client import OPEN_TIMEOUT_S, kafka_client_arguments
from flotilla.kafka.session_log import ANSWER_TIMEOUT_S, FETCH_BYTES, batches_until


@dataclass(frozen=True, slots=True)
class Extent:
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
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await consumer.stop()
            raise self._away(error) from error
        self._consumer = consumer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._opened.stop()

    @property
    def _opened(self) -> AIOKafkaConsumer:
        assert self._consumer is not None  # noqa: S101 - used in a `with` block
        return self._consumer

    async def extents(self, topic: str, partitions: Iterable[int]) -> list[Extent]:
        """Where each partition begins and ends now."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                starts = await self._opened.beginning_offsets(places)
                ends = await self._opened.end_offsets(places)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._away(error) from error
        return [Extent(place.partition, int(starts[place]), int(ends[place])) for place in places]

    async def batches(self, topic: str, extent: Extent) -> AsyncIterator[Sequence["ConsumerRecord[bytes, bytes]"]]:
        """All records of the extent, in order."""
        place = TopicPartition(topic, extent.partition)
        self._opened.assign([place])
        self._opened.seek(place, extent.start)
        try:
            async for batch in batches_until(self._opened, place, extent.end):
                yield batch
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._away(error) from error

    def _away(self, error: BaseException) -> RetryLater:
        reason = str(error) or type(error).__name__
        return RetryLater(f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer: {reason}")
