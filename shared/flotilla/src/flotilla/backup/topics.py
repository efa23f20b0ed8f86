"""Copies Kafka's topics up to where they end now, without the events that the database's snapshot does not have.

Events reach Kafka after they were committed, so a topic that is read after the snapshot has all that the snapshot does
not hold itself, and some more: what was committed since. That part is cut, and each event of it named. Records that
the snapshot's projection has read keep their offsets.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from aiokafka import ConsumerRecord

from flotilla.backup.files import CompressedFileWriter, Record, new_compressed_file
from flotilla.backup.manifest import StoredPartition, StoredTopic
from flotilla.backup.tables import Plain, Progress
from flotilla.config import KafkaSettings
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import ConfigurationError, Undecodable
from flotilla.kafka.topics import TopicSpec, load_topic_settings, log_topic_specs
from flotilla.kafka.whole_topics import PartitionExtent, TopicReader

Kind: TypeAlias = Literal["session-events", "checkpoints"]
KINDS: Sequence[Kind] = ("session-events", "checkpoints")
"""In the order of `log_topic_specs`."""
CUT = "kafka/cut.jsonl.gz"

_NEXT_OFFSETS = "SELECT kafka_partition, next_offset FROM audit.consumer_offsets"
_HEADS = """
SELECT s.tenant_id, s.session_id, s.head_seq FROM unnest($1::text[], $2::text[]) AS w (tenant_id, session_id)
JOIN flotilla.sessions AS s USING (tenant_id, session_id)
"""
_SELECT_CHECKPOINTS = "SELECT kafka_partition, max(number) AS number FROM audit.checkpoints GROUP BY kafka_partition"


class _Place(msgspec.Struct):
    tenant: str
    subject: str
    sequence: int
    id: str = ""
    type: str = ""


_place = msgspec.json.Decoder(_Place)
_Kafka: TypeAlias = "ConsumerRecord[bytes, bytes]"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutEvent:
    """A record that the backup leaves out; its content is not kept."""

    topic: str
    partition: int
    offset: int
    tenant_id: str
    session_id: str
    seq: int
    event_id: str
    type: str
    sha256: str


class TopicCopies:
    """Copies the topics of `settings`, against one snapshot."""

    def __init__(self, settings: KafkaSettings, connection: Plain, folder: Path, progress: Progress) -> None:
        self._settings = settings
        self._connection = connection
        self._folder = folder
        self._progress = progress

    async def copy(self, ends: dict[str, list[PartitionExtent]], cut: CompressedFileWriter) -> list[StoredTopic]:
        """Write each partition up to the end that was found, and into `cut` what is left out."""
        stored = []
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(TopicReader(self._settings))
            for kind, topic in zip(KINDS, log_topic_specs(self._settings), strict=True):
                rule = await (self._events() if kind == "session-events" else self._checkpoints())
                partitions = [await self._partition(reader, topic, extent, rule, cut) for extent in ends[topic.name]]
                settings = await load_topic_settings(self._settings, topic.name)
                stored.append(StoredTopic(kind=kind, name=topic.name, settings=settings, partitions=partitions))
        return stored

    async def _events(self) -> "_EventsRule":
        rows = await self._connection.fetch(_NEXT_OFFSETS)
        return _EventsRule(self._connection, {row["kafka_partition"]: row["next_offset"] for row in rows})

    async def _checkpoints(self) -> "_CheckpointsRule":
        rows = await self._connection.fetch(_SELECT_CHECKPOINTS)
        return _CheckpointsRule({row["kafka_partition"]: row["number"] for row in rows})

    async def _partition(
        self,
        reader: TopicReader,
        topic: TopicSpec,
        extent: PartitionExtent,
        rule: "_EventsRule | _CheckpointsRule",
        cut: CompressedFileWriter,
    ) -> StoredPartition:
        what = f"{topic.name}-{extent.partition}"
        count = left_out = 0
        with new_compressed_file(self._folder, f"kafka/{what}.records.gz") as file:
            async for batch in reader.read_batches(topic.name, extent):
                ahead = await rule.ahead(extent.partition, batch)
                for record in batch:
                    _refuse_gap(topic.name, extent, record.offset, count + left_out)
                    if (place := ahead.get(record.offset)) is None:
                        file.add(_stored(record))
                        count += 1
                        continue
                    cut.write(to_json(_cut_event(topic.name, record, place)) + b"\n")
                    left_out += 1
                self._progress(what, count + left_out, extent.end - extent.start)
        return StoredPartition(
            partition=extent.partition, start=extent.start, records=count, cut=left_out, file=file.manifest_entry
        )


def _refuse_gap(topic: str, extent: PartitionExtent, offset: int, taken: int) -> None:
    if offset != extent.start + taken:
        raise ConfigurationError(
            f"topic {topic}, partition {extent.partition} has no record at offset {extent.start + taken}, but one at "
            f"{offset}: a topic that was compacted, or written in transactions, can't be restored with its offsets"
        )


class _EventsRule:
    """Which events the snapshot does not have: later than their session's newest one there."""

    def __init__(self, connection: Plain, next_offsets: dict[int, int]) -> None:
        self._connection = connection
        self._next_offsets = next_offsets

    async def ahead(self, partition: int, batch: Sequence[_Kafka]) -> dict[int, _Place]:
        """Their places, by offset. What the projection has read, and what is not an event, stays as it is."""
        read_upto = self._next_offsets.get(partition, 0)
        places = {record.offset: place for record in batch if record.offset >= read_upto and (place := _read(record))}
        if not places:
            return {}
        sessions = list({(place.tenant, place.subject) for place in places.values()})
        rows = await self._connection.fetch(_HEADS, [one[0] for one in sessions], [one[1] for one in sessions])
        heads = {(row["tenant_id"], row["session_id"]): row["head_seq"] for row in rows}
        return {
            offset: place
            for offset, place in places.items()
            if place.sequence > heads.get((place.tenant, place.subject), 0)
        }


class _CheckpointsRule:
    """Which checkpoints the snapshot does not have: it would take them for removed."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers

    async def ahead(self, _partition: int, batch: Sequence[_Kafka]) -> dict[int, _Place]:
        """Their places, by offset."""
        found = {}
        for record in batch:
            try:
                checkpoint = CheckpointRecord.from_json(record.value or b"")
            except Undecodable:
                continue  # it is no checkpoint here, and will be none there
            if checkpoint.number > self._numbers.get(checkpoint.partition, 0):
                subject = f"checkpoint of partition {checkpoint.partition}"
                found[record.offset] = _Place(tenant="", subject=subject, sequence=checkpoint.number)
        return found


_Rule: TypeAlias = _EventsRule | _CheckpointsRule


def _read(record: _Kafka) -> _Place | None:
    try:
        return _place.decode(record.value or b"")
    except (msgspec.MsgspecError, RecursionError):
        return None


def _stored(record: _Kafka) -> Record:
    return Record(record.timestamp, record.key, record.value, list(record.headers))


def _cut_event(topic: str, record: _Kafka, place: _Place) -> CutEvent:
    return CutEvent(
        topic=topic,
        partition=record.partition,
        offset=record.offset,
        tenant_id=place.tenant,
        session_id=place.subject,
        seq=place.sequence,
        event_id=place.id,
        type=place.type,
        sha256=sha256(record.value or b"").hexdigest(),
    )
