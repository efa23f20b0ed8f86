"""The loop: partitions come and go with the group, offsets come from PostgreSQL, batches go into the projection."""

import asyncio
import time
from collections.abc import Iterable, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from audit_consumer.kafka_clients import leader_and_connection
from audit_consumer.projection import Projection, ProjectionResult
from audit_consumer.projection_rows import PartitionTakenOver, RecordBatch
from audit_consumer.requests import retry_formerly_unknown_types
from audit_consumer.resume_offsets import AvailableOffsets, ResumeOffsetFinder
from audit_consumer.snapshotting import write_due_snapshots
from flotilla.contracts.errors import RetryLater
from flotilla.postgres import AWAY, Pool
from flotilla.runtime import Runtime
from flotilla.telemetry import metrics

KAFKA_POLL_TIMEOUT_MS = 500
_RETRY_WAIT_S = 0.5
_GROUP_COMMIT_INTERVAL_S = 1.0
_ANSWER_TIMEOUT_S = 10.0
_COMMIT_TIMEOUT_S = 3.0
_MIN_EVENTS_FOR_TWO_TRANSACTIONS = 1000

_INSERT_OFFSET = "INSERT INTO consumer_offsets (kafka_partition, next_offset) VALUES ($1, 0) ON CONFLICT DO NOTHING"
_SELECT_OFFSETS = "SELECT * FROM consumer_offsets WHERE kafka_partition = ANY($1)"

log = structlog.get_logger(__name__)


class AuditConsumer(ConsumerRebalanceListener):
    """Projects the partitions that the group gives to this process."""

    def __init__(
        self,
        kafka: AIOKafkaConsumer,
        pool: Pool,
        topic: str,
        batch_events: int,
        resume_offsets: ResumeOffsetFinder,
        *,
        operator_tenant: str = "default",
    ) -> None:
        self._kafka = kafka
        self._resume_offsets = resume_offsets
        self._pool = pool
        self._topic = topic
        self._batch_events = batch_events
        self._projection = Projection(pool, operator_tenant)
        self._next: dict[int, int] = {}
        """Where each partition stands that is owned and placed."""
        self._unplaced: set[int] = set()
        self._read_over: dict[int, object] = {}
        """The connection to each placed partition's leader: over another one, its log may be another, too."""
        self._working = asyncio.Lock()
        self._committed_at = 0.0

    @property
    def owned_partitions(self) -> dict[int, int]:
        """The partitions that this process projects, with the next offset of each."""
        return dict(self._next)

    async def consume_until_stopped(self, runtime: Runtime) -> None:
        """Work until `runtime.stop` is set; a batch in hand is finished.

        Raises:
            ConfigurationError: Kafka no longer has what is still to be projected, or the topic is another one.
        """
        self._kafka.subscribe([self._topic], listener=self)
        while not runtime.stop.is_set():
            try:
                await self._poll_and_project(runtime)
            except (KafkaError, *AWAY, TimeoutError, RetryLater) as error:
                log.warning("projection_waits", reason=str(error) or type(error).__name__)
                self._unplace_all_partitions()
                await runtime.sleep(_RETRY_WAIT_S)
        await self._commit_group_offsets()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Let the batch in hand finish, so that the next owner starts behind it."""
        async with self._working:
            await self._commit_group_offsets()
            self._next.clear()
            self._unplaced.clear()
        log.info("partitions_revoked", partitions=sorted(place.partition for place in revoked))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Leave it to the loop to place them: until this returns the group hears no heartbeat."""
        self._unplaced = {place.partition for place in assigned}
        log.info("partitions_assigned", partitions=sorted(self._unplaced))

    async def _poll_and_project(self, runtime: Runtime) -> None:
        async with self._working:
            if self._unplaced:
                await self._seek_unplaced_partitions()
        if not self._next:
            await runtime.sleep(_RETRY_WAIT_S)
            return
        places = [TopicPartition(self._topic, partition) for partition in self._next]
        polled = await self._kafka.getmany(*places, timeout_ms=KAFKA_POLL_TIMEOUT_MS, max_records=self._batch_events)
        async with self._working:
            batches = [
                RecordBatch(place.partition, self._next[place.partition], records)
                for place, records in polled.items()
                if records and self._continues_at_placed_offset(place, records[0].offset)
            ]
            results = await asyncio.gather(
                *map(self._project_and_report, _split_into_two_transactions(batches)), return_exceptions=True
            )
            for error in results:
                if error is not None:
                    raise error

    def _continues_at_placed_offset(self, place: TopicPartition, first_offset: int) -> bool:
        """Whether records read now go on where the partition was placed; if not, it is placed again."""
        partition = place.partition
        if partition not in self._next:
            return False
        link = leader_and_connection(self._kafka, place)
        if first_offset == self._next[partition] and link is not None and self._read_over[partition] is link:
            return True
        log.info("partition_placed_again", partition=partition, read_from=first_offset, stood_at=self._next[partition])
        del self._next[partition]
        self._unplaced.add(partition)
        return False

    async def _seek_unplaced_partitions(self) -> None:
        """Seek every unplaced partition to where its row in PostgreSQL stands, if Kafka still agrees with it."""
        partitions = sorted(self._unplaced)
        async with self._pool.acquire() as connection:
            await connection.executemany(_INSERT_OFFSET, [(partition,) for partition in partitions])
            rows = await connection.fetch(_SELECT_OFFSETS, partitions)
        places = [TopicPartition(self._topic, row["kafka_partition"]) for row in rows]
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            starts = await self._kafka.beginning_offsets(places)
            ends = await self._kafka.end_offsets(places)
        # Looked up before the records are compared: a leader that comes after that is noticed.
        links = {place.partition: leader_and_connection(self._kafka, place) for place in places}
        for place, row in zip(places, rows, strict=True):
            self._read_over[place.partition] = links[place.partition]
            extent = AvailableOffsets(place.partition, int(starts[place]), int(ends[place]))
            next_offset = await self._resume_offsets.find_resume_offset(row, extent)
            self._kafka.seek(place, next_offset)
            self._next[place.partition] = next_offset
        self._unplaced.difference_update(self._next)
        await retry_formerly_unknown_types(self._pool, partitions)

    def _unplace_all_partitions(self) -> None:
        """What was fetched may not have been written: every partition is placed again from PostgreSQL."""
        self._unplaced |= self._next.keys()
        self._next.clear()

    async def _project_and_report(self, batches: Sequence[RecordBatch]) -> None:
        started = time.perf_counter()
        try:
            outcome = await self._projection.project_batches(batches)
        except PartitionTakenOver as reason:
            log.warning("fenced", reason=str(reason))
            self._unplace_all_partitions()
            return
        for batch in batches:
            self._next[batch.partition] = batch.next_offset
        _report_projection(outcome, time.perf_counter() - started)
        await write_due_snapshots(self._pool, outcome.snapshots_due)
        if time.monotonic() - self._committed_at > _GROUP_COMMIT_INTERVAL_S:
            await self._commit_group_offsets()

    async def _commit_group_offsets(self) -> None:
        """Tell Kafka where we are. Only lag metrics and scalers read it; the truth is in PostgreSQL."""
        offsets = {TopicPartition(self._topic, p): OffsetAndMetadata(upto, "") for p, upto in self._next.items()}
        if not offsets:
            return
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await self._kafka.commit(offsets)
        except (CommitFailedError, KafkaError, TimeoutError) as error:
            log.debug("group_offset_not_committed", reason=str(error) or type(error).__name__)
        self._committed_at = time.monotonic()


def _split_into_two_transactions(batches: Sequence[RecordBatch]) -> list[list[RecordBatch]]:
    """The batches in two transactions of about equal size, if they are large: one is decoded while one is written."""
    if sum(len(batch.records) for batch in batches) < _MIN_EVENTS_FOR_TWO_TRANSACTIONS:
        return [list(batches)] if batches else []
    shares: list[list[RecordBatch]] = [[], []]
    for batch in sorted(batches, key=lambda batch: len(batch.records), reverse=True):
        min(shares, key=lambda share: sum(len(taken.records) for taken in share)).append(batch)
    return [share for share in shares if share]


def _report_projection(outcome: ProjectionResult, seconds: float) -> None:
    metrics.AUDIT_PROJECTED.inc(len(outcome.appended))
    metrics.AUDIT_DUPLICATES.inc(outcome.duplicates)
    metrics.AUDIT_CONFLICTS.inc(outcome.conflicts)
    metrics.AUDIT_GAPS.inc(outcome.missing)
    if outcome.parked_sessions or outcome.undecodable:
        log.error(
            "events_parked",
            sessions=[f"{tenant}/{session}" for tenant, session in outcome.parked_sessions[:10]],
            missing=outcome.missing,
            conflicts=outcome.conflicts,
            undecodable=outcome.undecodable,
        )
    log.debug("batch_projected", events=len(outcome.appended), seconds=round(seconds, 4))
