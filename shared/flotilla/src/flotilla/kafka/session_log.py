"""Reads a session straight from Kafka: its own partition only, and never past the end that stood at the start.

aiokafka's iterator waits indefinitely at the end of a partition, and a scan of the topic reads everybody's history to
find one session; both are why this reader exists.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import sha256

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from flotilla.config import KafkaSettings
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.errors import RetryLater, Undecodable
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS, session_key
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.lanes import lane_of_session
from flotilla.kafka.records import LoggedEvent

ANSWER_TIMEOUT_S = 10.0
MAX_FETCH_BYTES = 4 * 1024 * 1024
_MAX_IDLE_READERS = 2
_POLL_TIMEOUT_MS = 1000

log = structlog.get_logger(__name__)


class _Place(msgspec.Struct):
    sequence: int


_place = msgspec.json.Decoder(_Place)


class KafkaEventLog:
    """The permanent log. Keeps up to two connections warm; safe for concurrent reads."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topic = settings.kafka_session_events_topic
        self._idle: list[AIOKafkaConsumer] = []

    async def read_session_events(
        self,
        tenant_id: str,
        session_id: str,
        *,
        first_seq: int = 1,
        last_seq: int | None = None,
        from_offset: int | None = None,
        not_before: datetime | None = None,
        set_aside: Collection[bytes] = (),
    ) -> list[LoggedEvent]:
        """The first occurrence of each of the session's own events from `first_seq` to `last_seq`, in order of seq.

        Events whose SHA-256 is in `set_aside` count as if they were not there.

        Starts at `from_offset`, else at the first record not older than `not_before`, else at the partition's
        beginning; ends at the partition's end as of now, or as soon as `last_seq` and all before it are found.

        Raises:
            RetryLater: Kafka does not answer.
        """
        partition = TopicPartition(self._topic, lane_of_session(tenant_id, session_id))
        key = session_key(tenant_id, session_id).encode()
        found: dict[int, LoggedEvent] = {}
        async with self._borrow_reader() as reader:
            end = await _seek_and_load_end(reader, partition, from_offset, not_before)
            async for record in _records_until(reader, partition, end):
                event = read_logged_event(record) if record.key == key else None
                if event is not None and set_aside and sha256(event.body).digest() in set_aside:
                    continue
                if event is None or event.seq in found or event.seq < first_seq:
                    continue
                if last_seq is not None and event.seq > last_seq:
                    continue
                found[event.seq] = event
                if last_seq is not None and len(found) == last_seq - first_seq + 1:
                    break
        return [found[seq] for seq in sorted(found)]

    async def scan_partition(self, partition: int) -> AsyncIterator[Sequence["ConsumerRecord[bytes, bytes]"]]:
        """Batches of all records of one partition, from its beginning to its end as of now."""
        place = TopicPartition(self._topic, partition)
        async with self._borrow_reader() as reader:
            end = await _seek_and_load_end(reader, place, None, None)
            async for batch in read_batches_until(reader, place, end):
                yield batch

    async def read_record(self, partition: int, offset: int) -> "ConsumerRecord[bytes, bytes] | None":
        """The record of one partition at this offset; None where Kafka has none there.

        Raises:
            RetryLater: Kafka does not answer.
        """
        place = TopicPartition(self._topic, partition)
        async with self._borrow_reader() as reader:
            end = await _seek_and_load_end(reader, place, offset, None)
            start = int((await reader.beginning_offsets([place]))[place])
            if not start <= offset < end:
                return None
            async for record in _records_until(reader, place, end):
                return record if record.offset == offset else None
        return None

    @property
    def checkpoints_topic(self) -> str:
        """The topic that holds the checkpoints."""
        return self._settings.kafka_checkpoints_topic

    async def read_checkpoints(self, from_offset: int | None = None) -> dict[tuple[int, int], CheckpointRecord]:
        """Every checkpoint in the topic (from an offset on), by partition of the events and number; the first of each
        counts.

        Raises:
            RetryLater: Kafka does not answer.
        """
        found: dict[tuple[int, int], CheckpointRecord] = {}
        place = TopicPartition(self.checkpoints_topic, 0)
        async with self._borrow_reader() as reader:
            end = await _seek_and_load_end(reader, place, from_offset, None)
            async for record in _records_until(reader, place, end):
                checkpoint = _checkpoint_from_record(record)
                if checkpoint is not None:
                    found.setdefault((checkpoint.partition, checkpoint.number), checkpoint)
        return found

    async def read_end_offsets(self) -> dict[int, int]:
        """Where each partition of the events ends now.

        Raises:
            RetryLater: Kafka does not answer.
        """
        places = [TopicPartition(self._topic, number) for number in range(SESSION_EVENTS_PARTITIONS)]
        async with self._borrow_reader() as reader, asyncio.timeout(ANSWER_TIMEOUT_S):
            ends = await reader.end_offsets(places)
        return {place.partition: offset for place, offset in ends.items()}

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().stop()

    @asynccontextmanager
    async def _borrow_reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        reader: AIOKafkaConsumer | None = None
        healthy = False
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader = self._idle.pop() if self._idle else await self._connect_reader()
            yield reader
            healthy = True
        except (KafkaError, OSError, TimeoutError) as error:
            raise RetryLater(
                f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer: "
                f"{str(error) or type(error).__name__}"
            ) from error
        finally:
            await self._return_reader(reader, healthy=healthy)

    async def _return_reader(self, reader: AIOKafkaConsumer | None, *, healthy: bool) -> None:
        if reader is None:
            return
        if healthy and len(self._idle) < _MAX_IDLE_READERS:
            reader.unsubscribe()
            self._idle.append(reader)
        else:
            await reader.stop()

    async def _connect_reader(self) -> AIOKafkaConsumer:
        reader = AIOKafkaConsumer(
            **kafka_client_arguments(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=MAX_FETCH_BYTES,
        )
        try:
            await reader.start()
        except BaseException:
            await reader.stop()
            raise
        return reader


@asynccontextmanager
async def open_kafka_log(settings: KafkaSettings) -> AsyncIterator[KafkaEventLog]:
    """A `KafkaEventLog` that connects on first use and is closed after the block."""
    opened = KafkaEventLog(settings)
    try:
        yield opened
    finally:
        await opened.close()


async def _seek_and_load_end(
    reader: AIOKafkaConsumer, partition: TopicPartition, from_offset: int | None, not_before: datetime | None
) -> int:
    """Place the reader and give the partition's end as of now."""
    reader.assign([partition])
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        end = int((await reader.end_offsets([partition]))[partition])
        start = from_offset
        if start is None and not_before is not None:
            found = await reader.offsets_for_times({partition: int(not_before.timestamp() * 1000)})
            start = found[partition].offset if found[partition] is not None else end
        if start is None:
            start = int((await reader.beginning_offsets([partition]))[partition])
    reader.seek(partition, start)
    return end


async def _records_until(
    reader: AIOKafkaConsumer, partition: TopicPartition, end: int
) -> AsyncIterator["ConsumerRecord[bytes, bytes]"]:
    async for batch in read_batches_until(reader, partition, end):
        for record in batch:
            yield record


async def read_batches_until(
    reader: AIOKafkaConsumer, partition: TopicPartition, end: int
) -> AsyncIterator[Sequence["ConsumerRecord[bytes, bytes]"]]:
    """Batches of the records from the reader's position to below `end`.

    Raises:
        TimeoutError: none came for `ANSWER_TIMEOUT_S`.
    """
    silent_since = asyncio.get_running_loop().time()
    while await reader.position(partition) < end:
        batch = (await reader.getmany(partition, timeout_ms=_POLL_TIMEOUT_MS)).get(partition, [])
        now = asyncio.get_running_loop().time()
        if batch:
            silent_since = now
            yield [record for record in batch if record.offset < end]
        elif now - silent_since > ANSWER_TIMEOUT_S:
            raise TimeoutError(f"no records of {partition} for {ANSWER_TIMEOUT_S:g} s")


def hash_kafka_record(key: bytes | None, value: bytes | None) -> bytes:
    """What a record is known by: SHA-256 over the length of its key, the key, and the value."""
    name = key or b""
    return sha256(len(name).to_bytes(4, "big") + name + (value or b"")).digest()


def read_logged_event(record: "ConsumerRecord[bytes, bytes]") -> LoggedEvent | None:
    """The record's place in its session's log; None (and a line in the log) when it is not an event."""
    body = record.value or b""
    try:
        return LoggedEvent(record.offset, _place.decode(body).sequence, body)
    except msgspec.MsgspecError:
        log.warning("undecodable_record_skipped", partition=record.partition, offset=record.offset)
        return None


def _checkpoint_from_record(record: "ConsumerRecord[bytes, bytes]") -> CheckpointRecord | None:
    try:
        return CheckpointRecord.from_json(record.value or b"")
    except Undecodable:
        log.warning("undecodable_checkpoint_skipped", partition=record.partition, offset=record.offset)
        return None
