"""What people ask of the audit consumer: retry, discard, rebuild."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from audit_consumer.projection import Projection
from audit_consumer.projection_rows import SessionKey
from audit_consumer.rebuild import RebuildTerms, drop_kept_projection, rebuild_projection
from audit_consumer.requests import AuditRequestLoop, retry_formerly_unknown_types, retry_parked_session
from flotilla.audit.requests import (
    AuditRequest,
    get_audit_request,
    list_parked_sessions,
    request_discard,
    request_rebuild,
    request_retry,
)
from flotilla.audit.verify import HistoryVerifier
from flotilla.config import KafkaSettings
from flotilla.config.signing import load_signer
from flotilla.contracts.envelope import encode_event
from flotilla.contracts.errors import Conflict, Invalid, NotFound
from flotilla.contracts.json_types import JsonObject
from flotilla.eventstore import AgentEventStore
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Pool
from flotilla.runtime import Runtime
from tests.support.audit import (
    Projected,
    audit_settings,
    event_at,
    events_of,
    outbox_bodies,
    project_directly,
    publish,
    records_of,
    relay_all,
    running_audit,
)
from tests.support.postgres import Database
from tests.support.session_events import message
from tests.support.waiting import eventually

CONFLICT = [event_at("s1", 1), event_at("s1", 2), event_at("s1", 2, "intruder"), event_at("s1", 3)]


async def served(pool: Pool, request: AuditRequest) -> AuditRequest:
    async def finished() -> AuditRequest | None:
        now = await get_audit_request(pool, "default", request.request_id)
        return now if now.finished_at else None

    return await eventually(finished, 60)


async def test_a_conflict_is_listed_with_what_blocks_the_session(audit_pool: Pool, pool: Pool) -> None:
    await project_directly(audit_pool, records_of(("default", "s1", encode_event(event)) for event in CONFLICT))
    (parked,) = await list_parked_sessions(pool, "default")
    assert (parked.session_id, parked.reason, parked.first_seq, parked.events) == ("s1", "conflict", 2, 2)
    assert "seq 2 is taken by event" in parked.detail
    assert await list_parked_sessions(pool, "globex") == []


async def test_a_discarded_conflict_lets_its_session_go_on_and_is_kept(
    database: Database, kafka: KafkaSettings, projected: Projected, pool: Pool, tmp_path: Path
) -> None:
    await publish(kafka, CONFLICT)
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until_offsets(4)
        retried = await served(pool, await request_retry(pool, "default", "s1", requested_by="ada"))
        assert retried.outcome == {"ok": True, "projected": 0, "still_parked": True}
        request = await request_discard(pool, "default", "s1", requested_by="ada", reason="restored twice")
        assert (await served(pool, request)).outcome == {"ok": True, "projected": 1, "still_parked": False}
        assert await projected.seqs("s1") == [1, 2, 3]
        assert await projected.parked("s1") == [(2, "discarded")]
        await publish(kafka, [CONFLICT[2], event_at("s1", 4)])  # the relay sends it again
        assert await projected.until("s1", 4) == [1, 2, 3, 4]


async def test_a_retry_of_what_is_not_parked_and_a_discard_without_a_reason_are_refused(pool: Pool) -> None:
    with pytest.raises(NotFound, match="nothing of session s1 is parked"):
        await request_retry(pool, "default", "s1", requested_by="ada")
    with pytest.raises(Invalid, match="a reason is required"):
        await request_discard(pool, "default", "s1", requested_by="ada", reason=" ")


async def test_an_upgrade_takes_in_what_waited_for_it(
    audit_pool: Pool, projected: Projected, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = event_at("s1", 2, type="flotilla.session.message.v2")
    events = [event_at("s1", 1), newer, event_at("s1", 3)]
    await project_directly(audit_pool, records_of(("default", "s1", encode_event(event)) for event in events))
    assert await projected.seqs("s1") == [1]
    await retry_formerly_unknown_types(audit_pool, [lane_of_session("default", "s1")])
    assert await projected.seqs("s1") == [1]
    monkeypatch.setattr("audit_consumer.records.is_known_event_type", lambda _type: True)
    await retry_formerly_unknown_types(audit_pool, [lane_of_session("default", "s1")])
    assert await projected.seqs("s1") == [1, 2, 3]
    assert await projected.parked("s1") == []


async def test_a_rebuild_equals_what_was_there_and_fixes_what_was_broken(
    database: Database, kafka: KafkaSettings, projected: Projected, *, pool: Pool, audit_pool: Pool, tmp_path: Path
) -> None:
    settings = audit_settings(database, kafka, tmp_path)
    store = AgentEventStore(pool)
    await store.ensure_session("s1", "ada")
    await store.append("s1", [message(f"m{number}") for number in range(1200)])
    await store.fork("s1", 1100, "s2")
    await store.rollback("s2", 5)
    bodies = await outbox_bodies(database)
    await project_directly(audit_pool, records_of(bodies), load_signer(tmp_path / "audit.pem"))
    await relay_all(database, kafka)
    before = await projected.fetch("SELECT session_id, seq, hash, body FROM audit.session_events ORDER BY 1, 2")
    state = await store.state_at("s2")
    await projected.execute("DELETE FROM audit.session_events WHERE seq BETWEEN 100 AND 300")
    await projected.execute("DELETE FROM audit.session_heads")
    assert await rebuild_projection(settings) is not None
    after = await projected.fetch("SELECT session_id, seq, hash, body FROM audit.session_events ORDER BY 1, 2")
    assert [tuple(row) for row in after] == [tuple(row) for row in before]
    assert await store.state_at("s2") == state
    assert (await HistoryVerifier(pool, "default").verify_sessions()).ok
    (kept,) = await projected.fetch("SELECT count(*) AS rows FROM audit_next.session_events")
    assert kept["rows"] == len(before) - 201
    assert (await drop_kept_projection(audit_pool, is_confirmed=True))["dropped"]
    (left,) = await projected.fetch("SELECT count(*) AS rows FROM audit_next.session_events")
    assert left["rows"] == 0


async def test_readers_and_the_live_consumer_go_on_through_a_rebuild(
    database: Database, kafka: KafkaSettings, projected: Projected, pool: Pool, tmp_path: Path
) -> None:
    store = AgentEventStore(pool)
    await store.ensure_session("s1", "ada")
    await publish(kafka, [event for n in range(40) for event in events_of(f"other-{n}", range(1, 51))])
    async with running_audit(audit_settings(database, kafka, tmp_path)):
        await projected.until_offsets(2000)
        await store.append("s1", [message("first")])
        await relay_all(database, kafka)
        await projected.until("s1", 1)
        reads = 0
        request = await request_rebuild(pool, "default", requested_by="ada")
        with pytest.raises(Conflict, match="under way"):
            await request_rebuild(pool, "default", requested_by="ada")
        while (await get_audit_request(pool, "default", request.request_id)).finished_at is None:
            await store.append("s1", [message("more")])
            await relay_all(database, kafka)
            assert len((await store.read_page("s1", 1, 1)).bodies) == 1
            reads += 1
        outcome = (await get_audit_request(pool, "default", request.request_id)).outcome
        assert outcome is not None
        assert outcome["ok"], outcome
        head = (await store.session("s1")).head_seq
        assert await projected.until("s1", head) == list(range(1, head + 1))
    assert reads > 0
    assert (await HistoryVerifier(pool, "default").verify_sessions()).ok


async def test_a_rebuild_that_was_broken_off_leaves_the_live_projection_and_can_be_repeated(
    database: Database,
    kafka: KafkaSettings,
    projected: Projected,
    *,
    audit_pool: Pool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = events_of("s1", range(1, 21))
    await project_directly(audit_pool, records_of(("default", "s1", encode_event(event)) for event in events))
    await publish(kafka, events)
    settings = audit_settings(database, kafka, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("audit_consumer.rebuild._SWITCH_PROJECTION", "SELECT 1 / 0")
        with pytest.raises(Exception, match="division by zero"):
            await rebuild_projection(settings)
    assert await projected.seqs("s1") == list(range(1, 21))
    await rebuild_projection(settings)
    assert await projected.seqs("s1") == list(range(1, 21))


async def test_a_rebuild_keeps_what_people_decided(
    database: Database, kafka: KafkaSettings, projected: Projected, audit_pool: Pool, tmp_path: Path
) -> None:
    await project_directly(audit_pool, records_of(("default", "s1", encode_event(event)) for event in CONFLICT))
    await publish(kafka, CONFLICT)
    await projected.execute("UPDATE audit.parked_events SET reason = 'discarded' WHERE reason = 'conflict'")
    await retry_parked_session(audit_pool, Projection(audit_pool), ("default", "s1"))
    await rebuild_projection(audit_settings(database, kafka, tmp_path))
    assert await projected.seqs("s1") == [1, 2, 3]
    assert await projected.parked("s1") == [(2, "discarded")]


async def test_a_request_that_fails_unexpectedly_ends_with_its_reason_and_the_next_is_served(
    audit_pool: Pool, pool: Pool
) -> None:
    async def broken(order: RebuildTerms) -> JsonObject:
        raise LookupError(f"no \x00 in {order.by}")

    async def never(session: SessionKey, bodies: Sequence[bytes]) -> None:
        raise AssertionError(session, bodies)

    runtime = Runtime("audit-consumer")
    first = await request_rebuild(pool, "default", requested_by="ada")
    serving = asyncio.create_task(AuditRequestLoop(audit_pool, broken, never).serve_until_stopped(runtime))
    assert (await served(pool, first)).outcome == {"ok": False, "error": "LookupError: no \\u0000 in ada"}
    second = await request_rebuild(pool, "default", requested_by="bob")
    assert (await served(pool, second)).outcome == {"ok": False, "error": "LookupError: no \\u0000 in bob"}
    runtime.stop.set()
    await serving
