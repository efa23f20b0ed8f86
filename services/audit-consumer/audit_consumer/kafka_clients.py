"""The consumer and the producer of this service, and how they start while Kafka comes and goes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaError

from audit_consumer.settings import Settings
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import session_key
from flotilla.kafka.client import CONNECT_TIMEOUT_S, kafka_client_arguments
from flotilla.kafka.lanes import lane_of_session
from flotilla.runtime import Runtime

_RETRY_WAIT_S = 0.5
_CLOSE_TIMEOUT_S = 3.0
_DISCONNECT_RETRY_S = 0.2
_FETCH_BYTES = 2 * 1024 * 1024
_FETCH_WAIT_MS = 200
_MAX_REQUEST_BYTES = 2 * 1024 * 1024
_MAX_POLL_MS = 300_000

C = TypeVar("C", AIOKafkaConsumer, AIOKafkaProducer)

log = structlog.get_logger(__name__)


def make_event_consumer(settings: Settings) -> AIOKafkaConsumer:
    """A member of the group; it commits nothing by itself and seeks where PostgreSQL says."""
    return AIOKafkaConsumer(
        **kafka_client_arguments(settings),
        group_id=settings.audit_group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=settings.kafka_session_timeout_ms,
        heartbeat_interval_ms=max(settings.kafka_session_timeout_ms // 3, 100),
        max_poll_interval_ms=_MAX_POLL_MS,
        max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
    )


def make_checkpoint_producer(settings: Settings) -> AIOKafkaProducer:
    """The producer of checkpoints, and of events in the place of lost ones."""
    return AIOKafkaProducer(
        **kafka_client_arguments(settings), acks="all", enable_idempotence=True, max_request_size=_MAX_REQUEST_BYTES
    )


async def publish_session_events(
    producer: AIOKafkaProducer, topic: str, session: tuple[str, str], bodies: Sequence[bytes]
) -> None:
    """Put events of one session (tenant, session) into its partition, in order; return when Kafka has them.

    Raises:
        RetryLater: Kafka does not take them; some may be there.
    """
    try:
        for body in bodies:
            key = session_key(*session).encode()
            await producer.send_and_wait(topic, body, key=key, partition=lane_of_session(*session))
    except KafkaError as error:
        raise RetryLater(f"Kafka did not accept the events: {str(error) or type(error).__name__}; ask again") from error


def leader_and_connection(consumer: AIOKafkaConsumer, place: TopicPartition) -> object:
    """What changes with the leader of a partition and with the connection to it; None while there is none.

    A broker can only lose records when it restarts or another one leads, and either ends the connection.
    """
    network: AIOKafkaClient = vars(consumer)["_client"]
    leader = network.cluster.leader_for_partition(place)
    return network._conns.get((leader, ConnectionGroup.DEFAULT))  # noqa: SLF001 - not public


@asynccontextmanager
async def start_client(runtime: Runtime, make: Callable[[], C]) -> AsyncIterator[C | None]:
    """The client, started as soon as Kafka answers; None when asked to stop before. Closing takes 3 s at most."""
    client = None
    while client is None and not runtime.stop.is_set():
        attempt = None
        try:
            attempt = make()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await attempt.start()
            client = attempt
        except (KafkaError, OSError) as error:
            if attempt is not None:
                await close_kafka_client(attempt)
            log.warning("waiting_for_kafka", reason=str(error) or type(error).__name__)
            await runtime.sleep(_RETRY_WAIT_S)
    try:
        yield client
    finally:
        if client is not None:
            await close_kafka_client(client)


async def close_kafka_client(client: C) -> None:
    """Leave the group and disconnect, in `_CLOSE_TIMEOUT_S` at most, whatever Kafka does.

    `stop` of aiokafka waits for every answer that is due: that of a group which rebalances may take half a minute,
    that of a broker which hangs never comes. Without their connection these requests fail, and `stop` ends; it may
    end before it has closed everything.
    """
    network: AIOKafkaClient = vars(client).get("client") or vars(client)["_client"]
    stopping: asyncio.Task[None] = asyncio.create_task(_stop_client(client))
    deadline = asyncio.get_running_loop().time() + _CLOSE_TIMEOUT_S
    await asyncio.wait([stopping], timeout=_CLOSE_TIMEOUT_S / 2)
    while not stopping.done() and asyncio.get_running_loop().time() < deadline:
        _close_connections(network)
        await asyncio.wait([stopping], timeout=_DISCONNECT_RETRY_S)
    stopping.cancel()
    await asyncio.wait([stopping])
    error = asyncio.CancelledError() if stopping.cancelled() else stopping.exception()
    if error is not None:
        log.warning("kafka_client_cut_off", reason=str(error) or type(error).__name__)
        _close_connections(network)
        await network.close()


async def _stop_client(client: C) -> None:
    await client.stop()


def _close_connections(network: AIOKafkaClient) -> None:
    for connection in list(network._conns.values()):  # noqa: SLF001 - not public
        connection.close()
