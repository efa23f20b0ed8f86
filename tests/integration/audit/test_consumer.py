"""The audit consumer against real Kafka and PostgreSQL."""

from pathlib import Path

import msgspec

from flotilla.audit.proof import genesis_hash, next_chain_hash
from flotilla.config import KafkaSettings
from flotilla.contracts.envelope import encode_event
from tests.support.audit import (
    Projected,
    audit_settings,
    event_at,
    events_of,
    publish,
    publish_bodies,
    running_audit,
    until_anchored,
)
from tests.support.postgres import Database


async def test_events_come_into_the_projection_in_order_and_chained(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    events = events_of("s1", range(1, 51))
    await publish(kafka, events)
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        assert await projected.until("s1", 50) == list(range(1, 51))
    rows = await projected.fetch("SELECT * FROM audit.session_events ORDER BY seq")
    chain = genesis_hash("default", "s1")
    for row, event in zip(rows, events, strict=True):
        chain = next_chain_hash(chain, encode_event(event))
        assert (row["body"], row["hash"]) == (encode_event(event), chain)
        assert msgspec.json.decode(row["event"]) == msgspec.json.decode(row["body"])
    head = (await projected.fetch("SELECT * FROM audit.session_heads"))[0]
    assert (head["seq"], head["hash"], head["first_seq"]) == (50, chain, 1)


async def test_a_duplicate_is_dropped(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    events = events_of("s1", range(1, 6))
    await publish(kafka, [*events, *events[2:], event_at("s1", 6)])
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        assert await projected.until("s1", 6) == [1, 2, 3, 4, 5, 6]
        await publish(kafka, [events[0], event_at("s1", 7)])
        assert await projected.until("s1", 7) == [1, 2, 3, 4, 5, 6, 7]
    assert await projected.parked("s1") == []


async def test_another_event_under_a_taken_seq_parks_its_session_and_no_other(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await publish(kafka, [*events_of("s1", [1, 2]), event_at("s1", 2, "intruder"), *events_of("s1", [3])])
    await publish(kafka, events_of("s2", [1, 2, 3]))
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until("s2", 3)
        await projected.until_offsets(7)
    assert await projected.seqs("s1") == [1, 2]
    assert await projected.parked("s1") == [(2, "conflict"), (3, "waiting")]


async def test_events_behind_a_gap_wait_and_drain_when_it_fills(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    one, two, three, four, five = events_of("s1", range(1, 6))
    await publish(kafka, [one, four, three])
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until_offsets(3)
        assert await projected.seqs("s1") == [1]
        assert await projected.parked("s1") == [(4, "gap"), (3, "gap")]
        await publish(kafka, [five, two])
        assert await projected.until("s1", 5) == [1, 2, 3, 4, 5]
    assert await projected.parked("s1") == []


async def test_what_is_not_an_event_is_kept_aside_and_holds_up_nobody(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await publish_bodies(kafka, [("default", "s1", b"not json"), ("default", "s1", encode_event(event_at("s2", 1)))])
    await publish(kafka, events_of("s1", [1]))
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until("s1", 1)
    assert [reason for _, reason in await projected.parked()] == ["undecodable", "undecodable"]


async def test_records_that_name_no_tenant_belong_to_the_operators_tenant(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await publish_bodies(kafka, [("default", "s1", b"not json")])
    async with running_audit(audit_settings(database, kafka, tmp_path, operator_tenant="operators")):
        await projected.until_offsets(1)
    (row,) = await projected.fetch("SELECT tenant_id FROM audit.parked_events")
    assert row["tenant_id"] == "operators"


async def test_an_unknown_version_parks_its_session(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    newer = event_at("s1", 2, type="flotilla.session.message.v99")
    await publish(kafka, [event_at("s1", 1), newer, event_at("s1", 3), event_at("s2", 1)])
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until_offsets(4)
    assert await projected.seqs("s1") == [1]
    assert await projected.parked("s1") == [(2, "unknown_type"), (3, "waiting")]
    assert await projected.seqs("s2") == [1]


async def test_text_that_jsonb_can_not_hold_is_projected_without_a_copy(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await publish(kafka, [event_at("s1", 1, "plain"), event_at("s1", 2, "a\0b"), event_at("s1", 3, "plain")])
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        assert await projected.until("s1", 3) == [1, 2, 3]
    rows = await projected.fetch("SELECT event IS NULL AS missing FROM audit.session_events ORDER BY seq")
    assert [row["missing"] for row in rows] == [False, True, False]


async def test_tool_results_become_analytics(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    data = {"tool": "search", "call_id": "c1", "ok": False, "duration_ms": 12.5, "error": "away", "agent": "research"}
    await publish(kafka, [event_at("s1", 1), event_at("s1", 2, kind="tool_result", data=data)])
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until("s1", 2)
    (row,) = await projected.fetch("SELECT tool, agent, ok, duration_ms, error FROM audit.tool_usage")
    assert tuple(row) == ("search", "research", False, 12.5, "away")


async def test_heads_are_anchored_in_postgresql_and_in_kafka(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await publish(kafka, [*events_of("s1", [1, 2]), *events_of("s2", [1])])

    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until_offsets(3)
        await until_anchored(projected)
    anchors = await projected.fetch("SELECT session_id, seq FROM audit.checkpoint_heads ORDER BY session_id, seq")
    assert [tuple(row) for row in anchors][-1] == ("s2", 1)
    assert ("s1", 2) in [tuple(row) for row in anchors]
