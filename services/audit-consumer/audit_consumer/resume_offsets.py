"""Whether Kafka still holds what was read: the record before each partition's offset is known by its hash.

A broker that lacks the newest records may become leader (unclean election, a disk that lost its tail, a restored
topic). New records then get the offsets of lost ones, and a consumer that goes on by number skips them in silence. So
a partition is placed only behind the very record that it read last. Otherwise it goes back to the last place that a
signed checkpoint and Kafka agree on, reads again and compares: what is known is dropped, what differs is parked.
"""

from dataclasses import dataclass

import asyncpg
import structlog

from audit_consumer.records import read_candidate
from flotilla.audit.proof import Statement
from flotilla.contracts.errors import ConfigurationError, Undecodable
from flotilla.kafka.session_log import KafkaEventLog, hash_kafka_record
from flotilla.postgres import Connection, Pool
from flotilla.telemetry import metrics

_STORE_LAST_RECORD = """
UPDATE consumer_offsets SET last_record = $3
WHERE kafka_partition = $1 AND next_offset = $2 AND last_record IS NULL
"""
_MOVE_OFFSET_BACK = """
UPDATE consumer_offsets SET next_offset = $3, last_record = $4, last_event_id = NULL, updated_at = now()
WHERE kafka_partition = $1 AND next_offset = $2
"""
# What waits or was set aside, and is no longer in Kafka: its offset belongs to another record now.
_UNTIE_PARKED = """
UPDATE parked_events AS p SET kafka_offset = m.untied FROM (
    SELECT tenant_id, kafka_offset, least(min(kafka_offset) OVER (), 0) - count(*) OVER ()
        + row_number() OVER (ORDER BY kafka_offset, tenant_id) - 1 AS untied
    FROM parked_events WHERE kafka_partition = $1) AS m
WHERE p.kafka_partition = $1 AND p.kafka_offset >= $2 AND p.tenant_id = m.tenant_id AND p.kafka_offset = m.kafka_offset
"""
# Where a session's reads of Kafka begin.
_LOWER_FIRST_OFFSETS = "UPDATE session_heads SET first_offset = $2 WHERE kafka_partition = $1 AND first_offset > $2"
_SELECT_CHECKPOINT_NUMBERS = "SELECT min(number), max(number) FROM audit.checkpoints WHERE kafka_partition = $1"
_SELECT_CHECKPOINT_STATEMENT = """
SELECT number, statement FROM audit.checkpoints WHERE kafka_partition = $1 AND number <= $2 ORDER BY number DESC LIMIT 1
"""
_SELECT_IS_EVENT_PROJECTED = """
SELECT EXISTS (SELECT FROM session_events WHERE tenant_id = $1 AND session_id = $2 AND seq = $3 AND body = $4)
    OR EXISTS (SELECT FROM parked_events WHERE tenant_id = $1 AND session_id = $2 AND seq = $3 AND body = $4)
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AvailableOffsets:
    """What Kafka has of a partition now: offsets from `start` to below `end`."""

    partition: int
    start: int
    end: int


class ResumeOffsetFinder:
    """Compares the places of partitions with Kafka. `new_log` names a topic that may have nothing in common."""

    def __init__(self, pool: Pool, kafka: KafkaEventLog, topic: str, new_log: str | None = None) -> None:
        self._pool = pool
        self._kafka = kafka
        self._topic = topic
        self._may_be_new = new_log == topic

    async def find_resume_offset(self, standing: asyncpg.Record, extent: AvailableOffsets) -> int:
        """Return the offset to read on from: where the partition stands, or the last place that agrees with Kafka.

        Raises:
            ConfigurationError: Kafka deleted records that were never read, or the topic is another one.
            RetryLater: Kafka does not answer.
        """
        next_offset: int = standing["next_offset"]
        if next_offset < extent.start:
            raise ConfigurationError(
                f"partition {extent.partition} of {self._topic} begins at offset {extent.start}, but the projection "
                f"has read only up to {next_offset}: the records between were deleted before they were read. Restore "
                "the topic from a copy, and set retention.ms=-1 and retention.bytes=-1"
            )
        if await self._is_last_record_unchanged(extent, next_offset, standing["last_record"]):
            await self._adopt_last_record(extent, next_offset, standing["last_record"])
            return next_offset
        return await self._move_back_to_last_agreement(standing, extent)

    async def _is_last_record_unchanged(
        self, extent: AvailableOffsets, next_offset: int, last_record: bytes | None
    ) -> bool:
        """Whether the record before `next_offset` is the one that was read."""
        if not extent.start <= next_offset <= extent.end:
            return False
        if last_record is None or next_offset == extent.start:
            return True
        record = await self._kafka.read_record(extent.partition, next_offset - 1)
        return record is not None and hash_kafka_record(record.key, record.value) == last_record

    async def _adopt_last_record(self, extent: AvailableOffsets, next_offset: int, last_record: bytes | None) -> None:
        """After an upgrade the newest record is not known yet: it is taken as it is now."""
        if last_record is None and next_offset > extent.start:
            record = await self._kafka.read_record(extent.partition, next_offset - 1)
            if record is not None:
                taken = hash_kafka_record(record.key, record.value)
                await self._pool.execute(_STORE_LAST_RECORD, extent.partition, next_offset, taken)

    async def _move_back_to_last_agreement(self, standing: asyncpg.Record, extent: AvailableOffsets) -> int:
        offset, last_record = await self._find_last_agreed_offset(extent)
        if offset <= extent.start and not await self._has_common_record(extent):
            raise ConfigurationError(
                f"partition {extent.partition} of {self._topic} holds offsets {extent.start} to {extent.end} and no "
                f"record in common with the projection, which stands at {standing['next_offset']}: the topic lost "
                "events or was recreated; restore it, or name the right topic. If its log is lost for good, "
                f"FLOTILLA_AUDIT_ACCEPT_NEW_LOG={self._topic} goes on with the new one"
            )
        async with self._pool.acquire() as connection, connection.transaction():
            await _move_offset(connection, standing, offset, last_record)
        metrics.AUDIT_LOG_LOST.labels(str(extent.partition)).inc()
        log.error(
            "kafka_lost_records",
            partition=extent.partition,
            read_up_to=standing["next_offset"],
            last_event_id=str(standing["last_event_id"]),
            kafka_ends_at=extent.end,
            reading_again_from=offset,
        )
        return offset

    async def _find_last_agreed_offset(self, extent: AvailableOffsets) -> tuple[int, bytes | None]:
        """The newest checkpoint's place that Kafka still has as it was signed; else the partition's start.

        What one checkpoint has in common with Kafka, all before it have: a binary search.
        """
        found: tuple[int, bytes | None] = (extent.start, None)
        numbers = await self._pool.fetchrow(_SELECT_CHECKPOINT_NUMBERS, extent.partition)
        low, high = (numbers[0] or 1, numbers[1] or 0) if numbers else (1, 0)
        while low <= high:
            middle = (low + high) // 2
            row = await self._pool.fetchrow(_SELECT_CHECKPOINT_STATEMENT, extent.partition, middle)
            if row is None or row["number"] < low:
                low = middle + 1
                continue
            statement = Statement.from_bytes(row["statement"])
            signed = bytes.fromhex(statement.last_record)
            if signed and await self._is_last_record_unchanged(extent, statement.next_offset, signed):
                found, low = (statement.next_offset, signed), middle + 1
            elif not signed:
                low = middle + 1  # of an older version, which did not sign it: only newer ones can tell
            else:
                high = row["number"] - 1
        return found

    async def _has_common_record(self, extent: AvailableOffsets) -> bool:
        if self._may_be_new:
            return True
        record = await self._kafka.read_record(extent.partition, extent.start) if extent.end > extent.start else None
        if record is None:
            return False
        try:
            first = read_candidate(record)
        except Undecodable:
            return False
        known = await self._pool.fetchval(
            _SELECT_IS_EVENT_PROJECTED, first.tenant_id, first.session_id, first.seq, first.body
        )
        return bool(known)


async def _move_offset(
    connection: Connection, standing: asyncpg.Record, offset: int, last_record: bytes | None
) -> None:
    partition = standing["kafka_partition"]
    moved = await connection.execute(_MOVE_OFFSET_BACK, partition, standing["next_offset"], offset, last_record)
    if moved == "UPDATE 1":
        await connection.execute(_UNTIE_PARKED, partition, offset)
        await connection.execute(_LOWER_FIRST_OFFSETS, partition, offset)
