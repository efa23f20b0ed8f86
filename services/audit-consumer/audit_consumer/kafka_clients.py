"""The consumer and the producer of this service, and how they start while Kafka comes and goes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from audit_consumer.settings import Settings
from flotilla.outbox.kafka_client import client_arguments
from flotilla.runtime import Runtime

_RETRY_S = 0.5
_FETCH_BYTES = 2 * 1024 * 1024
_FETCH_WAIT_MS = 200
_MAX_REQUEST_BYTES = 2 * 1024 * 1024
_MAX_POLL_MS = 300_000

C = TypeVar("C", AIOKafkaConsumer, AIOKafkaProducer)

log = structlog.get_logger(__name__)


def make_consumer(settings: Settings) -> AIOKafkaConsumer:
    """A member of the group; it commits nothing by itself and seeks where PostgreSQL says."""
    return AIOKafkaConsumer(
        **client_arguments(settings),
        group_id=settings.audit_group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=settings.kafka_session_timeout_ms,
        heartbeat_interval_ms=max(settings.kafka_session_timeout_ms // 3, 100),
        max_poll_interval_ms=_MAX_POLL_MS,
        max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
    )


def make_producer(settings: Settings) -> AIOKafkaProducer:
    """The producer of checkpoints."""
    return AIOKafkaProducer(
        **client_arguments(settings), acks="all", enable_idempotence=True, max_request_size=_MAX_REQUEST_BYTES
    )


@asynccontextmanager
async def started(runtime: Runtime, make: Callable[[], C]) -> AsyncIterator[C | None]:
    """The client, started as soon as Kafka answers; None when asked to stop before."""
    client = None
    while client is None and not runtime.stop.is_set():
        attempt = make()
        try:
            await attempt.start()
            client = attempt
        except (KafkaError, OSError) as error:
            await attempt.stop()
            log.warning("waiting_for_kafka", reason=str(error) or type(error).__name__)
            await runtime.sleep(_RETRY_S)
    try:
        yield client
    finally:
        if client is not None:
            await client.stop()
