"""Whatever a session's events hold goes through Kafka, the projection, replay and export, and stays verifiable."""

import json
from pathlib import Path

import pytest

from flotilla.audit.export import export_session
from flotilla.audit.verify import HistoryVerifier
from flotilla.config import KafkaSettings
from flotilla.config.signing import create_key_pair, load_public_keys, load_signer
from flotilla.contracts.envelope import decode_event, encode_event, from_json, to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.contracts.values import to_storable
from flotilla.eventstore import AgentEventStore
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import Pool
from tests.support.anything import objects
from tests.support.audit import Projected, event_at, outbox_bodies, project_directly, publish_bodies, records_of
from tests.support.collected import collected
from tests.support.postgres import Database


async def test_any_data_of_an_event_is_logged_projected_replayed_and_exported(
    pool: Pool, audit_pool: Pool, database: Database, *, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    values = collected(objects, 100)
    store = AgentEventStore(pool)
    await store.ensure_session("s1", "ada")
    for value in values:
        data: JsonObject = {"change": "seen", "details": value}
        await store.append("s1", [AgentStateEvent(kind="state_change", data=data, source="/tests")])
    bodies = await outbox_bodies(database)
    await publish_bodies(kafka, bodies)
    create_key_pair(tmp_path / "audit.pem", tmp_path / "audit.pub")
    await project_directly(audit_pool, records_of(bodies), load_signer(tmp_path / "audit.pem"))
    await projected.execute("DELETE FROM flotilla.event_outbox")

    kept = [to_storable(value).value for value in values]
    replayed = await store.replay("s1")
    assert [event.data["details"] for event in replayed] == kept
    rows = await projected.fetch("SELECT body, event FROM audit.session_events ORDER BY seq")
    assert [decode_event(row["body"]).data["details"] for row in rows] == kept
    # jsonb writes 1e22 as an integer of as many digits: the same number, of another type in Python.
    shown = [json.loads(row["event"], parse_int=float)["data"]["details"] for row in rows]
    assert shown == [json.loads(json.dumps(value), parse_int=float) for value in kept]
    async with open_kafka_log(kafka) as log:
        keys = load_public_keys(tmp_path / "audit.pub")
        verdict = await HistoryVerifier(pool, "default", keys, log).verify_sessions("s1")
    assert verdict.ok, verdict.problems
    lines = [json.loads(line) async for line in export_session(pool, "default", "s1")]
    assert len([line for line in lines if line["kind"] == "event"]) == len(values)


@pytest.mark.parametrize("beside", [{}, {"note": "\0"}], ids=["", "no copy"])
async def test_data_that_is_no_object_stops_no_projection(
    pool: Pool, audit_pool: Pool, projected: Projected, tmp_path: Path, beside: JsonObject
) -> None:
    await AgentEventStore(pool).ensure_session("s1", "ada")
    bodies = []
    for seq, data in enumerate(([], ["sealed"], "sealed", 1, None, {"sealed": 1}, [{"sealed": 1}]), start=1):
        event = from_json(encode_event(event_at("s1", seq)), dict)
        bodies.append(to_json({**event, "data": data, **beside}))
    create_key_pair(tmp_path / "audit.pem", tmp_path / "audit.pub")
    records = records_of(("default", "s1", body) for body in bodies)
    await project_directly(audit_pool, records, load_signer(tmp_path / "audit.pem"))
    rows = await projected.fetch("SELECT body FROM audit.session_events ORDER BY seq")
    assert [row["body"] for row in rows] == bodies
    verdict = await HistoryVerifier(pool, "default", load_public_keys(tmp_path / "audit.pub")).verify_sessions("s1")
    assert verdict.ok, verdict.problems


@pytest.mark.parametrize("content", [b"\xff", b"\xed\xa0\x80", b"\x00"], ids=["byte", "surrogate", "NUL"])
async def test_a_record_that_is_not_text_is_parked(
    pool: Pool, audit_pool: Pool, projected: Projected, content: bytes
) -> None:
    await AgentEventStore(pool).ensure_session("s1", "ada")
    odd = encode_event(event_at("s1", 1, "odd")).replace(b"odd", content)
    outcome = await project_directly(audit_pool, records_of([("default", "s1", odd)]))
    assert outcome.undecodable == 1
    [parked] = await projected.fetch("SELECT reason, body FROM audit.parked_events")
    assert (parked["reason"], parked["body"]) == ("undecodable", odd)
