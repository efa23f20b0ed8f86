"""Lag, life and traces: what others see of the audit consumer."""

from pathlib import Path

import pytest

from audit_consumer.lag_watch import LagMonitor
from audit_consumer.records import read_candidate
from audit_consumer.tracing import EventSpans
from flotilla.config import KafkaSettings
from flotilla.contracts.envelope import encode_event
from flotilla.contracts.errors import RetryLater
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Pool, open_pool
from flotilla.telemetry import configure_traces
from tests.support.audit import (
    FakeRecord,
    Projected,
    audit_settings,
    event_at,
    events_of,
    publish,
    running_audit,
)
from tests.support.postgres import Database
from tests.support.waiting import eventually

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_consumer_that_has_work_and_does_none_is_seen_as_stuck(kafka: KafkaSettings, audit_pool: Pool) -> None:
    watch = LagMonitor(kafka, audit_pool)
    lane = lane_of_session("default", "s1")
    await audit_pool.execute("INSERT INTO consumer_offsets SELECT n, 0 FROM generate_series(0, 11) AS n")
    assert (await watch.measure_lag([lane])).moves
    await publish(kafka, events_of("s1", [1, 2, 3]))
    await watch.measure_lag([lane])
    stuck = await watch.measure_lag([lane])
    assert (stuck.lags, stuck.moves) == ({lane: 3}, False)
    assert not (await watch.measure_lag([])).moves
    assert (await watch.measure_lag([(lane + 1) % 12])).moves
    await audit_pool.execute("UPDATE consumer_offsets SET next_offset = 1 WHERE kafka_partition = $1", lane)
    assert (await watch.measure_lag([lane])).moves
    await watch.close_kafka()


async def test_a_server_that_is_away_is_no_sign_of_being_stuck(kafka: KafkaSettings, audit_pool: Pool) -> None:
    watch = LagMonitor(KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"), audit_pool)
    with pytest.raises(RetryLater, match="Kafka does not answer"):
        await watch.measure_lag([0])
    async with open_pool("postgresql://nobody@127.0.0.1:1/none", application="test") as nowhere:
        watch = LagMonitor(kafka, nowhere)
        with pytest.raises(RetryLater, match="PostgreSQL does not answer"):
            await watch.measure_lag([0])
        await watch.close_kafka()


async def test_a_sampled_trace_goes_on_from_the_kafka_header_into_the_audit_row() -> None:
    traces = configure_traces("test", None, 1.0)
    body = encode_event(event_at("s1", 1, traceparent=SAMPLED.replace("b7ad", "0000")))
    with_header = read_candidate(FakeRecord(0, 0, b"default/s1", body, (("traceparent", SAMPLED.encode()),)))
    unsampled = read_candidate(
        FakeRecord(0, 1, b"default/s1", encode_event(event_at("s1", 2, traceparent=SAMPLED[:-1] + "0")))
    )
    assert with_header.traceparent == SAMPLED
    spans = EventSpans([with_header, unsampled])
    spans.end_all_spans()
    assert with_header.traceparent is not None
    assert with_header.traceparent.startswith(SAMPLED[:36])
    assert with_header.traceparent != SAMPLED
    assert unsampled.traceparent is None
    traces.shutdown()


async def test_it_waits_for_a_database_without_the_schema_and_reports_it(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await projected.execute("ALTER TABLE flotilla_ops._yoyo_migration RENAME TO hidden")
    async with running_audit(audit_settings(database, kafka, tmp_path)) as runtime:

        async def reason() -> str | None:
            return (await runtime.health.readiness_problems()).get("postgres")

        assert "flotilla.install" in str(await eventually(reason))
        await projected.execute("ALTER TABLE flotilla_ops.hidden RENAME TO _yoyo_migration")
        await publish(kafka, events_of("s1", [1]))
        await projected.until("s1", 1)
