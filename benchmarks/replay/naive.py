"""The replay that one writes first: a consumer over the whole topic, from the beginning, keeping one session."""

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from flotilla.config import KafkaSettings
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS


async def scan_topic(settings: KafkaSettings, session_id: str) -> int:
    """How many events of the session the topic holds. Stops at the end as of the start (the real naive one hangs)."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        topic = settings.kafka_session_events_topic
        places = [TopicPartition(topic, number) for number in range(SESSION_EVENTS_PARTITIONS)]
        consumer.assign(places)
        left = sum((await consumer.end_offsets(places)).values())
        for place in places:
            consumer.seek(place, 0)
        events = []
        while left > 0:
            record = await consumer.getone()
            left -= 1
            event = msgspec.json.decode(record.value or b"{}")
            if event["subject"] == session_id:
                events.append(event)
        return len(sorted(events, key=lambda event: event["time"]))
    finally:
        await consumer.stop()
