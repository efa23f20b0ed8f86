"""Puts Kafka's records back: each at the offset that it had, for the projection and signed checkpoints name offsets."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from aiokafka import ConsumerRecord

from flotilla.backup.files import Record, read_backup_records
from flotilla.backup.manifest import Manifest, StoredPartition, StoredTopic
from flotilla.backup.settings import RestoreSettings
from flotilla.backup.tables import Progress
from flotilla.backup.topics import KINDS
from flotilla.contracts.errors import Refused
from flotilla.kafka.exact_writes import ExactOffsetWriter, RecordToWrite, open_exact_writer
from flotilla.kafka.session_log import hash_kafka_record
from flotilla.kafka.topics import TopicSpec, ensure_topics, log_topic_specs
from flotilla.kafka.whole_topics import PartitionExtent, TopicReader

_OF_THE_BROKERS = ("min.insync.replicas", "unclean.leader.election.enable", "leader.", "follower.")
"""Settings that belong to how many brokers there are; the restored topic gets those of this cluster."""


class RestoredTopics:
    """The topics that a backup goes into."""

    def __init__(self, settings: RestoreSettings, folder: Path, manifest: Manifest) -> None:
        self._settings = settings
        self._folder = folder
        self._topics = [
            (topic, manifest.find_topic(kind)) for kind, topic in zip(KINDS, log_topic_specs(settings), strict=True)
        ]

    async def create_missing_topics(self) -> None:
        """Create the topics that are missing, with the settings that they had."""
        topics = [
            TopicSpec(topic.name, topic.partitions, {**topic.configs, **_own_settings(stored.settings)})
            for topic, stored in self._topics
        ]
        await ensure_topics(self._settings, replication_factor=self._settings.kafka_replication_factor, topics=topics)

    async def refuse_records(self) -> None:
        """Return if the topics are empty.

        Raises:
            Refused: they hold records.
        """
        async with TopicReader(self._settings) as reader:
            for topic, _ in self._topics:
                extents = await reader.load_partition_extents(topic.name, range(topic.partitions))
                if count := sum(extent.end for extent in extents):
                    raise Refused(
                        f"the fleet is not empty, so nothing was changed. Topic {topic.name} has, or had, {count} "
                        "records: delete it, or name another one"
                    )

    async def restore_records(self, progress: Progress) -> None:
        """Write the records that are not there yet, then read all of them back.

        Raises:
            Refused: the topic holds something else.
        """
        async with TopicReader(self._settings) as reader, open_exact_writer(self._settings) as writer:
            for topic, stored in self._topics:
                for partition in stored.partitions:
                    await self._write(reader, writer, topic.name, partition)
                    progress(f"{topic.name}-{partition.partition}", partition.records, partition.records)
            for topic, stored in self._topics:
                await self._compare(reader, topic.name, stored, progress)

    async def _write(self, reader: TopicReader, writer: ExactOffsetWriter, topic: str, stored: StoredPartition) -> None:
        (extent,) = await reader.load_partition_extents(topic, [stored.partition])
        end = extent.end
        if end < stored.start or (stored.start and extent.start < stored.start):
            await writer.skip_offsets(topic, stored.partition, stored.start, end)
            end = max(end, stored.start)
        if end > stored.start + stored.records:
            raise Refused(
                f"topic {topic}, partition {stored.partition} ends at {end}, the backup at "
                f"{stored.start + stored.records}: something else wrote to it"
            )
        left = islice(read_backup_records(self._folder, stored.file), end - stored.start, None)
        await writer.write_records(topic, stored.partition, end, map(_to_write, left))

    async def _compare(self, reader: TopicReader, topic: str, stored: StoredTopic, progress: Progress) -> None:
        """What a killed restore sent may have arrived after this one looked."""
        for partition in stored.partitions:
            end = partition.start + partition.records
            found = await reader.load_partition_extents(topic, [partition.partition])
            wanted = read_backup_records(self._folder, partition.file)
            same = found == [
                PartitionExtent(partition.partition, partition.start if partition.records else found[0].start, end)
            ]
            if same and partition.records:
                async for batch in reader.read_batches(topic, found[0]):
                    same = same and all(_is_same(record, one) for record, one in zip(batch, wanted, strict=False))
            progress(f"comparing {topic}-{partition.partition}", partition.partition, len(stored.partitions))
            if not same:
                raise Refused(
                    f"topic {topic}, partition {partition.partition} is not what was backed up: delete the topic and "
                    "restore again"
                )


def _own_settings(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if not name.startswith(_OF_THE_BROKERS)}


def _to_write(record: Record) -> RecordToWrite:
    return RecordToWrite(record.timestamp_ms, record.key, record.value, record.headers)


def _is_same(found: "ConsumerRecord[bytes, bytes]", wanted: Record) -> bool:
    return hash_kafka_record(found.key, found.value) == hash_kafka_record(wanted.key, wanted.value)
