"""A topic whose log changes, as it does when a broker without the newest records becomes leader."""

from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from flotilla.config import KafkaSettings
from flotilla.contracts.envelope import AgentEvent
from flotilla.kafka.topics import ensure_topics
from tests.support.audit import publish
from tests.support.waiting import eventually


async def replace_log(settings: KafkaSettings, events: Sequence[AgentEvent]) -> None:
    """The events' topic under the same name with only `events` in it, from offset 0 on."""
    name = settings.kafka_session_events_topic
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([name])

        async def gone() -> bool:
            return name not in await admin.list_topics()

        await eventually(gone, 30)
    finally:
        await admin.close()
    await ensure_topics(settings)
    await publish(settings, events)


async def delete_before(settings: KafkaSettings, partition: int, offset: int) -> None:
    """Deletes the records of a partition below an offset, as a retention would."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        place = TopicPartition(settings.kafka_session_events_topic, partition)
        await admin.delete_records({place: RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()
