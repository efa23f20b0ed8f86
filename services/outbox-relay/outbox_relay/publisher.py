"""Whole batches to Kafka: acks from all in-sync replicas, an idempotent producer, rebuilt after any failure.

The caller keeps one batch per partition in batch. A batch whose fate is unknown may still arrive after the producer
is gone; that makes duplicates, which the projection drops, and never a new order.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownError,
    UnsupportedForMessageFormatError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from flotilla.contracts.errors import DeadLetter, RetryLater
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.kafka.client import CONNECT_TIMEOUT_S, KafkaClientArguments
from flotilla.kafka.closing import close_producer_without_flush

MAX_BATCH_BYTES = 1_000_000
"""Below Kafka's default message.max.bytes of 1,048,588, which limits a whole batch."""
_RECONNECT_BACKOFF_S = (0.1, 2.0)
_MAX_ATTEMPT_TIME_S = 60.0
"""Far longer than any attempt to reach Kafka takes: its own limit and that of closing."""

Compression = Literal["none", "lz4", "zstd"]

_CERTAIN_REFUSAL_ERRORS = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    UnsupportedForMessageFormatError,
)
_POSSIBLE_REFUSAL_ERRORS = (UnknownError, CorruptRecordException)
"""aiokafka has no name for INVALID_RECORD (87): it arrives as UnknownError, as a broker's own trouble does."""

log = structlog.get_logger(__name__)


class EventRefused(DeadLetter):
    """Kafka refuses this batch for what is in it; `certain` says that the same batch will never be accepted."""

    def __init__(self, message: str, *, certain: bool) -> None:
        super().__init__(message)
        self.certain = certain


class KafkaPublisher:
    """One idempotent producer. After any failed `send` it must be aborted: its sequence numbers have a hole."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self.topic = topic

    @classmethod
    async def connect_publisher(
        cls, arguments: KafkaClientArguments, topic: str, compression: Compression = "none"
    ) -> "KafkaPublisher":
        """Connect and draw a producer id.

        Raises:
            RetryLater: Kafka does not answer within 10 s, or refuses the connection.
        """
        producer = AIOKafkaProducer(
            **arguments,
            acks="all",
            enable_idempotence=True,
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_BATCH_BYTES,
            compression_type=None if compression == "none" else compression,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await producer.start()
                _check_partition_count(topic, len(await producer.partitions_for(topic)))
        except asyncio.CancelledError:
            await close_producer_without_flush(producer)
            raise
        except (KafkaError, OSError) as error:
            await close_producer_without_flush(producer)
            reason = str(error) or type(error).__name__
            raise RetryLater(f"Kafka at {arguments['bootstrap_servers']} can't be used: {reason}") from error
        return cls(producer, topic)

    def new_batch(self) -> BatchBuilder:
        """An empty batch; it takes records up to MAX_BATCH_BYTES, the first one whatever its size."""
        batch: BatchBuilder = self._producer.create_batch()
        return batch

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        """Send one batch and return once all in-sync replicas have it.

        Waits for as long as Kafka is unavailable: aiokafka repeats an idempotent batch indefinitely.

        Raises:
            EventRefused: Kafka refuses this batch for what is in it.
            RetryLater: the producer is dead or was aborted; the batch may or may not have arrived.
        """
        try:
            delivery: asyncio.Future[object] = await self._producer.send_batch(batch, self.topic, partition=partition)
            await delivery
        except _CERTAIN_REFUSAL_ERRORS as error:
            raise EventRefused(f"{type(error).__name__}: {error}", certain=True) from error
        except _POSSIBLE_REFUSAL_ERRORS as error:
            raise EventRefused(f"{type(error).__name__}: {error}", certain=False) from error
        except KafkaError as error:
            raise RetryLater(f"Kafka did not take a batch: {type(error).__name__}: {error}") from error

    async def check_broker_answers(self) -> None:
        """A readiness check: raises RetryLater when no broker answers."""
        if not await self._producer.client.force_metadata_update():
            raise RetryLater("no Kafka broker answers")

    async def close_without_flush(self) -> None:
        """Close without flushing, within seconds; `AIOKafkaProducer.stop` waits until Kafka takes what is queued."""
        await close_producer_without_flush(self._producer)


def _check_partition_count(topic: str, found: int) -> None:
    # A deleted topic may come back by itself, with the broker's default.
    if found != SESSION_EVENTS_PARTITIONS:
        raise KafkaError(f"topic {topic} has {found} partitions, {SESSION_EVENTS_PARTITIONS} are needed")


class PublisherConnection:
    """The relay's way to Kafka: a publisher while there is one, and a task that makes a new one while not."""

    def __init__(self, open_publisher: Callable[[], Awaitable[KafkaPublisher]]) -> None:
        self._open = open_publisher
        self._connecting: asyncio.Task[None] | None = None
        self._old: KafkaPublisher | None = None
        self._attempted_at = time.monotonic()
        self.publisher: KafkaPublisher | None = None
        self.problem: str | None = "not connected to Kafka yet"

    @property
    def is_making_progress(self) -> bool:
        """Whether there is a publisher, or a live task that tries to get one."""
        return self.publisher is not None or (
            self._connecting is not None
            and not self._connecting.done()
            and time.monotonic() - self._attempted_at < _MAX_ATTEMPT_TIME_S
        )

    def reconnect(self, reason: str | None = None) -> None:
        """Close the publisher, whatever it has in hand, and open another as soon as Kafka answers."""
        if self._connecting is not None and not self._connecting.done():
            return
        if self.publisher is not None:
            self._old, self.publisher = self.publisher, None
        self.problem = reason or self.problem
        self._attempted_at = time.monotonic()
        self._connecting = asyncio.create_task(self._connect_until_open(), name="kafka-link")

    def ensure_connecting(self) -> None:
        """Try to get a publisher again if the task that did has ended without one."""
        if self.publisher is None and (self._connecting is None or self._connecting.done()):
            log.error("kafka_link_ended", problem=self.problem)
            self.reconnect()

    async def _connect_until_open(self) -> None:
        await self._close_old_publisher()
        backoff_s, max_backoff_s = _RECONNECT_BACKOFF_S
        while True:
            self._attempted_at = time.monotonic()
            try:
                self.publisher = await self._open()
            except RetryLater as error:
                if str(error) != self.problem:
                    log.warning("kafka_away", error=str(error))
                self.problem = str(error)
            except Exception as error:
                log.exception("kafka_link_failed")
                self.problem = f"{type(error).__name__}: {error}"
            else:
                log.info("kafka_connected", after=self.problem)
                self.problem = None
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, max_backoff_s)

    async def _close_old_publisher(self) -> None:
        if self._old is not None:
            await self._old.close_without_flush()
            self._old = None

    async def close(self) -> None:
        """End without waiting for what is in hand."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        await self._close_old_publisher()
        if self.publisher is not None:
            await self.publisher.close_without_flush()
            self.publisher = None
