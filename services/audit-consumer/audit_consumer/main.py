"""The audit consumer: Kafka's session events into the audit projection."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import structlog

from audit_consumer.agreement import Agreement
from audit_consumer.anchoring import Anchor
from audit_consumer.connections import LIVE, open_projection
from audit_consumer.consumer import AuditConsumer
from audit_consumer.kafka_clients import make_consumer, make_producer, publish_events, started
from audit_consumer.rebuild import rebuild
from audit_consumer.requests import Requests
from audit_consumer.settings import Settings
from audit_consumer.watch import Watch
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.eventstore import open_kafka_log
from flotilla.eventstore.signing import load_signer
from flotilla.outbox.topics import check_topics
from flotilla.postgres import Pool, check_schema
from flotilla.runtime import Runtime, serve
from flotilla.telemetry import metrics

SERVICE = "audit-consumer"
_LOOK_EVERY_S = 5.0

log = structlog.get_logger(__name__)


async def run(settings: Settings, runtime: Runtime) -> None:
    """Opens everything, projects until asked to stop, closes in reverse."""
    signer = load_signer(settings.audit_signing_key_file)
    async with AsyncExitStack() as stack:
        dsn = settings.postgres_dsn.get_secret_value()
        pool = await stack.enter_async_context(
            open_projection(
                dsn,
                LIVE,
                application=runtime.instance,
                max_size=settings.postgres_pool_max,
                idle_in_transaction_s=settings.postgres_idle_in_transaction_s,
            )
        )
        runtime.health.add_check("postgres", lambda: check_schema(pool))
        runtime.health.add_check("kafka", lambda: check_topics(settings))
        if not await runtime.until_ready():
            return
        kafka = await stack.enter_async_context(started(runtime, partial(make_consumer, settings)))
        producer = await stack.enter_async_context(started(runtime, partial(make_producer, settings)))
        if kafka is None or producer is None:
            return
        watch = Watch(settings, pool)
        stack.push_async_callback(watch.close)
        topic = settings.kafka_session_events_topic
        kafka_log = await stack.enter_async_context(open_kafka_log(settings))
        agreement = Agreement(pool, kafka_log, topic, settings.audit_accept_new_log)
        consumer = AuditConsumer(kafka, pool, topic, settings.audit_batch_events, agreement)
        anchor = Anchor(pool, producer, kafka_log, signer, lambda: consumer.owned)
        await _work(
            runtime,
            settings.drain_s,
            pool,
            consumer.run(runtime),
            Requests(pool, partial(rebuild, settings), partial(publish_events, producer, topic)).run(runtime),
            anchor.run(runtime, settings.checkpoint_interval_s),
            _look(watch, consumer, runtime, settings.stuck_after_s),
        )


async def _work(runtime: Runtime, drain_s: float, pool: Pool, *loops: Coroutine[None, None, None]) -> None:
    """Runs the loops until all return; the first that fails ends the others. Ends `drain_s` after `runtime.stop`."""
    try:
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(loop) for loop in loops]
            limit = tasks.create_task(_cut_off(runtime, drain_s, pool, working))
            await asyncio.wait(working)
            limit.cancel()
    except* ConfigurationError as group:
        raise group.exceptions[0] from None


async def _cut_off(runtime: Runtime, drain_s: float, pool: Pool, working: Sequence[asyncio.Task[None]]) -> None:
    """Ends what waits for a server longer than the drain time; a batch that was not committed is the next owner's."""
    await runtime.stop.wait()
    await asyncio.sleep(drain_s)
    log.warning("drain_cut_off", drain_s=drain_s)
    # A statement in hand would be cancelled by asking the server, which may be the one that does not answer.
    pool.terminate()
    for task in working:
        task.cancel()


async def _look(watch: Watch, consumer: AuditConsumer, runtime: Runtime, stuck_after_s: float) -> None:
    """Reports the lag of the owned partitions; shows life as long as there is no work, or it gets done."""
    runtime.health.expect_progress("projection", stuck_after_s)
    reported: set[int] = set()
    while not runtime.stop.is_set():
        try:
            view = await watch.look(consumer.owned)
        except RetryLater as reason:
            log.info("waiting_for_dependencies", reason=str(reason))
            runtime.health.progress("projection")
        else:
            reported = _report_lags(view.lags, reported)
            if view.moves:
                runtime.health.progress("projection")
        await runtime.sleep(min(_LOOK_EVERY_S, stuck_after_s / 4))


def _report_lags(lags: Mapping[int, int], reported: set[int]) -> set[int]:
    for gone in reported - lags.keys():
        metrics.AUDIT_LAG.remove(str(gone))
    for partition, lag in lags.items():
        metrics.AUDIT_LAG.labels(str(partition)).set(lag)
    return set(lags)


def main() -> int:
    """Runs the service; gives its exit code."""
    return serve(SERVICE, Settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
