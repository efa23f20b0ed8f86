"""Writes records into empty topics, each to the offset that it had."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import Conflict, RetryLater
from flotilla.kafka.client import CONNECT_TIMEOUT_S, kafka_client_arguments
from flotilla.kafka.topics import delete_records_before

_MAX_REQUEST_BYTES = 2 * 1024 * 1024
_MAX_RECORDS_IN_FLIGHT = 500
Headers: TypeAlias = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class RecordToWrite:
    """What a record holds; times are those of its maker."""

    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@asynccontextmanager
async def open_exact_writer(settings: KafkaSettings) -> AsyncIterator["ExactOffsetWriter"]:
    """A writer that is closed after the block.

    Raises:
        RetryLater: Kafka does not answer, or does not take a record.
    """
    producer = AIOKafkaProducer(
        **kafka_client_arguments(settings), acks="all", enable_idempotence=True, max_request_size=_MAX_REQUEST_BYTES
    )
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await producer.start()
        yield ExactOffsetWriter(settings, producer)
    except (KafkaError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise RetryLater(f"Kafka at {settings.kafka_bootstrap_servers} does not take records: {reason}") from error
    finally:
        await producer.stop()


class ExactOffsetWriter:
    """One partition at a time, its records in order."""

    def __init__(self, settings: KafkaSettings, producer: AIOKafkaProducer) -> None:
        self._settings = settings
        self._producer = producer

    async def skip_offsets(self, topic: str, partition: int, start: int, end: int) -> None:
        """Use up the offsets from `end` (where the partition ends now) to below `start`, whose records are gone."""
        empty = (RecordToWrite(0, None, None, []) for _ in range(end, start))
        await self.write_records(topic, partition, end, empty)
        await delete_records_before(self._settings, {TopicPartition(topic, partition): start})

    async def write_records(self, topic: str, partition: int, offset: int, records: Iterator[RecordToWrite]) -> int:
        """Write the records from `offset` on, where the partition ends now; return where it ends then.

        Raises:
            Conflict: something else writes to the partition.
        """
        while chunk := list(islice(records, _MAX_RECORDS_IN_FLIGHT)):
            acknowledged = [await self._send_record(topic, partition, record) for record in chunk]
            for metadata in await asyncio.gather(*acknowledged):
                if metadata.offset != offset:
                    raise Conflict(
                        f"a record for offset {offset} of {topic}, partition {partition} went to {metadata.offset}: "
                        "something else writes to the topic, or what a killed restore sent arrived late. Delete the "
                        "topic and restore again"
                    )
                offset += 1
        return offset

    async def _send_record(self, topic: str, partition: int, record: RecordToWrite) -> "asyncio.Future[RecordMetadata]":
        sent: asyncio.Future[RecordMetadata] = await self._producer.send(
            topic,
            b"" if record.key is None and record.value is None else record.value,  # aiokafka wants one of them
            key=record.key,
            partition=partition,
            timestamp_ms=record.timestamp_ms,
            headers=record.headers,
        )
        return sent
