"""Runs the relay: opens everything, wires it, closes it in reverse."""

from contextlib import AsyncExitStack
from functools import partial

import structlog

from flotilla.contracts.errors import RetryLater
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.topics import check_topics
from flotilla.postgres import check_schema
from flotilla.runtime import Job, Runtime, serve
from outbox_relay.leases import LaneLeases
from outbox_relay.publisher import KafkaPublisher, PublisherConnection
from outbox_relay.relay import OutboxRelay, RelayOptions
from outbox_relay.rows import open_relay_pool
from outbox_relay.settings import Settings

SERVICE = "outbox-relay"
_LOOP_STUCK_AFTER_S = 120.0
_RETRY_WAIT_S = 0.5
_STOP_MARGIN_S = 10.0
"""For what comes after the drain: handing the lanes back."""

log = structlog.get_logger(__name__)


async def run(settings: Settings, runtime: Runtime) -> None:
    """Wait for PostgreSQL and Kafka, then relay until asked to stop."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            open_relay_pool(
                settings.postgres_dsn.get_secret_value(),
                idle_in_transaction_s=settings.postgres_idle_in_transaction_s,
                ca_file=settings.postgres_ca_file,
            )
        )
        runtime.health.add_check("postgres", partial(check_schema, pool))
        runtime.health.add_check("kafka", partial(check_topics, settings))
        if not await wait_for_valid_topics(settings, runtime) or not await runtime.wait_until_ready():
            return

        async def open_publisher() -> KafkaPublisher:
            arguments = kafka_client_arguments(settings)  # a password may have changed
            return await KafkaPublisher.connect_publisher(
                arguments, settings.kafka_session_events_topic, settings.relay_compression
            )

        link = PublisherConnection(open_publisher)
        stack.push_async_callback(link.close)
        runtime.health.expect_progress("kafka link", _LOOP_STUCK_AFTER_S)
        relay = OutboxRelay(
            pool,
            link,
            LaneLeases(pool, runtime.instance),
            options=make_relay_options(settings),
            traces=settings.otlp_endpoint is not None,
            on_progress=partial(runtime.health.note_progress, "kafka link"),
        )
        runtime.health.add_check("kafka", relay.check_kafka_ready)
        await runtime.supervisor.run(
            # What was under way when it was cut off is unknown: a new process reads it again.
            Job(
                name="relay",
                work=lambda stop: relay.relay_until(stop, settings.drain_s),
                stuck_after_s=_LOOP_STUCK_AFTER_S,
                restarts=False,
            ),
            limit_s=settings.drain_s + _STOP_MARGIN_S,
        )


async def wait_for_valid_topics(settings: Settings, runtime: Runtime) -> bool:
    """Wait for Kafka and its topics; False when asked to stop first. A wrong topic is a ConfigurationError."""
    told = ""
    while not runtime.stop.is_set():
        try:
            await check_topics(settings)
        except RetryLater as reason:
            if told != str(reason):
                log.warning("waiting_for_kafka", reason=str(reason))
                told = str(reason)
            await runtime.sleep(_RETRY_WAIT_S)
        else:
            return True
    return False


def make_relay_options(settings: Settings) -> RelayOptions:
    """The relay's limits and paces."""
    return RelayOptions(
        max_rows=settings.relay_max_rows,
        max_bytes=settings.relay_max_bytes,
        busy_poll_s=settings.relay_busy_poll_s,
        idle_poll_s=settings.relay_idle_poll_s,
        send_timeout_s=settings.relay_send_timeout_s,
    )


def main() -> None:
    """The service's entry point."""
    raise SystemExit(serve(SERVICE, Settings, run))


if __name__ == "__main__":
    main()
