"""The audit consumer: Kafka's session events into the audit projection."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

import httpx
import structlog

from audit_consumer.checkpoint_job import CheckpointJob
from audit_consumer.connections import LIVE, open_projection_pool
from audit_consumer.consumer import AuditConsumer
from audit_consumer.kafka_clients import (
    make_checkpoint_producer,
    make_event_consumer,
    publish_session_events,
    start_client,
)
from audit_consumer.lag_watch import LagMonitor
from audit_consumer.rebuild import rebuild_projection
from audit_consumer.requests import AuditRequestLoop
from audit_consumer.resume_offsets import ResumeOffsetFinder
from audit_consumer.settings import Settings
from audit_consumer.stamps import StampJob
from audit_consumer.witnesses import WitnessJob, parse_witnesses
from flotilla.config.signing import load_signer
from flotilla.contracts.errors import RetryLater
from flotilla.kafka.session_log import open_kafka_log
from flotilla.kafka.topics import check_topics
from flotilla.postgres import Pool, check_schema
from flotilla.runtime import Job, Runtime, serve
from flotilla.telemetry import metrics

SERVICE = "audit-consumer"
_LAG_CHECK_INTERVAL_S = 5.0

log = structlog.get_logger(__name__)


async def run(settings: Settings, runtime: Runtime) -> None:
    """Open everything, project until asked to stop, close in reverse."""
    signer = load_signer(settings.audit_signing_key_file)
    async with AsyncExitStack() as stack:
        dsn = settings.postgres_dsn.get_secret_value()
        pool = await stack.enter_async_context(
            open_projection_pool(
                dsn,
                LIVE,
                application=runtime.instance,
                max_size=settings.postgres_pool_max,
                idle_in_transaction_s=settings.postgres_idle_in_transaction_s,
                ca_file=settings.postgres_ca_file,
            )
        )
        runtime.health.add_check("postgres", lambda: check_schema(pool))
        runtime.health.add_check("kafka", lambda: check_topics(settings))
        if not await runtime.wait_until_ready():
            return
        kafka = await stack.enter_async_context(start_client(runtime, partial(make_event_consumer, settings)))
        producer = await stack.enter_async_context(start_client(runtime, partial(make_checkpoint_producer, settings)))
        if kafka is None or producer is None:
            return
        watch = LagMonitor(settings, pool)
        stack.push_async_callback(watch.close_kafka)
        topic = settings.kafka_session_events_topic
        kafka_log = await stack.enter_async_context(open_kafka_log(settings))
        resume_offsets = ResumeOffsetFinder(pool, kafka_log, topic, settings.audit_accept_new_log)
        consumer = AuditConsumer(
            kafka, pool, topic, settings.audit_batch_events, resume_offsets, operator_tenant=settings.operator_tenant
        )
        checkpoint_job = CheckpointJob(
            pool,
            producer,
            kafka_log,
            signer,
            origin=settings.audit_log_origin,
            owned=lambda: consumer.owned_partitions,
        )
        requests = AuditRequestLoop(
            pool, partial(rebuild_projection, settings), partial(publish_session_events, producer, topic)
        )
        await runtime.supervisor.run(
            # Where the consumer stood when it was cut off is known to PostgreSQL: a new process begins there.
            Job(
                name="consumer",
                work=lambda stop: consumer.consume_until_stopped(runtime.view(stop)),
                stuck_after_s=None,
                restarts=False,
            ),
            Job(name="requests", work=lambda stop: requests.serve_until_stopped(runtime.view(stop))),
            Job(
                name="anchor",
                work=lambda stop: checkpoint_job.publish_checkpoints_until_stopped(
                    runtime.view(stop), settings.checkpoint_interval_s
                ),
            ),
            *(await _make_witness_and_stamp_jobs(settings, runtime, stack, pool, consumer)),
            Job(
                name="watch",
                work=lambda stop: _report_lag_and_progress(watch, consumer, runtime.view(stop), settings.stuck_after_s),
            ),
            # A batch that is not committed in time is the next owner's. A statement in hand would be cancelled by
            # asking the server, which may be the one that does not answer.
            limit_s=settings.drain_s,
            cut_off=pool.terminate,
        )


async def _make_witness_and_stamp_jobs(
    settings: Settings, runtime: Runtime, stack: AsyncExitStack, pool: Pool, consumer: AuditConsumer
) -> list[Job]:
    """The jobs that have checkpoints cosigned by witnesses, and stamped by an authority, as far as there are any."""
    witnesses, timeout_s = parse_witnesses(settings.audit_witnesses), settings.audit_witness_timeout_s
    http = await stack.enter_async_context(httpx.AsyncClient(timeout=timeout_s))
    jobs = []
    if witnesses:
        quorum = settings.audit_witness_quorum or len(witnesses)
        cosign = WitnessJob(pool, http, witnesses, quorum, timeout_s=timeout_s, owned=lambda: consumer.owned_partitions)
        every_s = settings.audit_witness_interval_s
        jobs.append(Job(name="witnesses", work=lambda stop: cosign.ask_until_stopped(runtime.view(stop), every_s)))
    if settings.audit_stamp_url:
        stamp = StampJob(
            pool, http, settings.audit_stamp_url, timeout_s=timeout_s, owned=lambda: consumer.owned_partitions
        )
        stamp_s = settings.audit_stamp_interval_s
        jobs.append(Job(name="stamps", work=lambda stop: stamp.stamp_until_stopped(runtime.view(stop), stamp_s)))
    return jobs


async def _report_lag_and_progress(
    watch: LagMonitor, consumer: AuditConsumer, runtime: Runtime, stuck_after_s: float
) -> None:
    """Report the lag of the owned partitions; shows life as long as there is no work, or it gets done."""
    runtime.health.expect_progress("projection", stuck_after_s)
    reported: set[int] = set()
    while not runtime.stop.is_set():
        try:
            view = await watch.measure_lag(consumer.owned_partitions)
        except RetryLater as reason:
            log.info("waiting_for_dependencies", reason=str(reason))
            runtime.health.note_progress("projection")
        else:
            reported = _set_lag_gauges(view.lags, reported)
            if view.moves:
                runtime.health.note_progress("projection")
        await runtime.sleep(min(_LAG_CHECK_INTERVAL_S, stuck_after_s / 4))


def _set_lag_gauges(lags: Mapping[int, int], reported: set[int]) -> set[int]:
    for gone in reported - lags.keys():
        metrics.AUDIT_LAG.remove(str(gone))
    for partition, lag in lags.items():
        metrics.AUDIT_LAG.labels(str(partition)).set(lag)
    return set(lags)


def main() -> int:
    """Run the service and return its exit code."""
    return serve(SERVICE, Settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
