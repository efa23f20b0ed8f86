"""A rebuild never destroys the only copy: what Kafka lost stays in the projection until two people name it."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit_consumer.losses import WouldLoseEvents
from audit_consumer.rebuild import RebuildTerms, drop_kept_projection, rebuild_projection
from audit_consumer.settings import Settings
from flotilla.audit.requests import (
    AuditRequest,
    confirm_audit_request,
    get_audit_request,
    request_drop_of_replaced_projection,
    request_rebuild,
)
from flotilla.audit.verify import HistoryVerifier
from flotilla.config import KafkaSettings
from flotilla.config.signing import load_public_keys
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.errors import Conflict, Forbidden, Invalid, NotFound, RetryLater
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Pool, tenant_transaction
from tests.support.audit import (
    Projected,
    audit_settings,
    event_at,
    events_of,
    project_directly,
    publish,
    records_of,
    running_audit,
    until_anchored,
)
from tests.support.kafka_topics import replace_log
from tests.support.postgres import Database
from tests.support.waiting import eventually

HISTORY = "SELECT session_id, seq, hash, body FROM audit.session_events ORDER BY 1, 2"
KEPT = "SELECT session_id, seq, hash, body FROM audit_next.session_events ORDER BY 1, 2"
LOCK_LOST = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_database ON oid = database
WHERE locktype = 'advisory' AND datname = current_database()
"""
ARCHIVED = "UPDATE audit.session_heads SET archived_seq = seq, archived_hash = hash WHERE session_id = 's2'"
S1, S2 = events_of("s1", range(1, 21)), events_of("s2", range(1, 6))


async def history(projected: Projected, query: str = HISTORY) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await projected.fetch(query)]


async def project(pool: Pool, events: Sequence[AgentEvent]) -> None:
    await project_directly(pool, records_of((e.tenant or "", e.subject, encode_event(e)) for e in events))


async def served(pool: Pool, request: AuditRequest) -> AuditRequest:
    async def finished() -> AuditRequest | None:
        now = await get_audit_request(pool, "default", request.request_id)
        return now if now.finished_at else None

    return await eventually(finished, 60)


def lost(request: AuditRequest) -> list[tuple[str, int]]:
    """Session and number of lost events, of each loss that the outcome lists."""
    outcome: Any = request.outcome
    return [(loss["session_id"], loss["lost"]) for loss in outcome["losses"]]


@pytest.fixture
async def settings(database: Database, kafka: KafkaSettings, tmp_path: Path) -> Settings:
    """s1 and s2 are projected, and Kafka has lost the tail of s1."""
    return audit_settings(database, kafka, tmp_path)


@pytest.fixture
async def before_the_archive(projected: Projected, audit_pool: Pool) -> list[tuple[object, ...]]:
    """The history of s1 and s2; the events of s2 are in an archive since then."""
    await project(audit_pool, [*S1, *S2])
    before = await history(projected)
    await projected.execute(ARCHIVED)
    await projected.execute("DELETE FROM audit.session_events WHERE session_id = 's2'")
    return before


async def test_a_rebuild_refuses_to_lose_what_only_the_projection_has(
    settings: Settings, kafka: KafkaSettings, projected: Projected, audit_pool: Pool
) -> None:
    await project(audit_pool, [*S1, *S2])
    await publish(kafka, [*S1[:12], *S2])
    before = await history(projected)
    with pytest.raises(
        WouldLoseEvents, match=r"default/s1 \(holds 20 events, Kafka gives 12: 8 lost, from event 13 on\)"
    ):
        await rebuild_projection(settings)
    assert await history(projected) == before
    assert await history(projected, KEPT) == []


@pytest.mark.parametrize(
    ("in_kafka", "named"),
    [
        pytest.param([*S1[:9], *S1[10:], *S2], ("default/s1", 11, 0), id="one in the middle, the rest waits"),
        pytest.param([*S1], ("default/s2", 5, 0), id="a whole session"),
        pytest.param([*S1, *S2[:4], event_at("s2", 5, "other")], ("default/s2", 0, 1), id="another event in its place"),
        pytest.param([], ("default/s1", 20, 0), id="everything"),
    ],
)
async def test_each_kind_of_loss_is_named(
    settings: Settings,
    kafka: KafkaSettings,
    audit_pool: Pool,
    in_kafka: list[AgentEvent],
    named: tuple[str, int, int],
) -> None:
    await project(audit_pool, [*S1, *S2])
    await publish(kafka, in_kafka)
    with pytest.raises(WouldLoseEvents) as refused:
        await rebuild_projection(settings)
    first = refused.value.losses[0]
    assert (first.name_to_accept, first.lost, first.replaced) == named


async def test_a_parked_event_that_kafka_lost_is_not_dropped(
    settings: Settings, kafka: KafkaSettings, projected: Projected, audit_pool: Pool
) -> None:
    await project(audit_pool, [*S1[:3], S1[4], *S2])  # event 5 waits for event 4
    await publish(kafka, [*S1[:3], *S2])
    with pytest.raises(WouldLoseEvents, match=r"default/s1 \(holds 3 events, Kafka gives 3: 1 lost, from event 5 on\)"):
        await rebuild_projection(settings)
    assert await projected.parked("s1") == [(5, "gap")]


@pytest.mark.parametrize(
    ("in_kafka", "named"),
    [
        pytest.param([*S1], ("default/s2", 5, 0, 1), id="all of it"),
        pytest.param([*S1, *S2[:3]], ("default/s2", 2, 0, 4), id="its end"),
        pytest.param([*S1, *S2[:4], event_at("s2", 5, "other")], ("default/s2", 0, 5, 1), id="another history"),
    ],
)
async def test_a_rebuild_refuses_to_lose_the_head_that_an_archive_comes_back_to(
    settings: Settings,
    kafka: KafkaSettings,
    before_the_archive: list[tuple[object, ...]],
    in_kafka: list[AgentEvent],
    named: tuple[str, int, int, int],
) -> None:
    await publish(kafka, in_kafka)
    with pytest.raises(WouldLoseEvents) as refused:
        await rebuild_projection(settings)
    (loss,) = refused.value.losses
    assert (loss.name_to_accept, loss.lost, loss.replaced, loss.first_seq) == named


async def test_a_rebuild_brings_archived_events_back_from_kafka(
    settings: Settings, kafka: KafkaSettings, projected: Projected, before_the_archive: list[tuple[object, ...]]
) -> None:
    await publish(kafka, [*S1, *S2])
    await rebuild_projection(settings)
    assert await history(projected) == before_the_archive


async def test_damage_in_the_projection_alone_is_repaired_without_asking(
    settings: Settings, kafka: KafkaSettings, projected: Projected, audit_pool: Pool
) -> None:
    await project(audit_pool, [*S1, *S2])
    await publish(kafka, [*S1, *S2])
    before = await history(projected)
    await projected.execute("UPDATE audit.session_events SET body = 'x' WHERE seq = 3")
    await projected.execute("DELETE FROM audit.session_events WHERE session_id = 's2' AND seq > 2")
    outcome = await rebuild_projection(settings)
    assert (outcome["events"], outcome["sessions_lost"]) == (25, [])
    assert await history(projected) == before


async def test_a_rebuild_waits_for_the_end_of_another(
    settings: Settings, kafka: KafkaSettings, projected: Projected, audit_pool: Pool
) -> None:
    await project(audit_pool, [*S1, *S2])
    await publish(kafka, [*S1, *S2])
    before, refused = await history(projected), []

    async def begin_another(progress: JsonObject) -> None:
        if progress["phase"] == "comparing":
            with pytest.raises(RetryLater, match="another rebuild is running") as refusal:
                await rebuild_projection(settings)
            refused.append(str(refusal.value))

    assert (await rebuild_projection(settings, RebuildTerms(report=begin_another)))["events"] == 25
    assert refused
    assert await history(projected) == before
    assert (await rebuild_projection(settings))["events"] == 25


async def test_a_rebuild_that_lost_its_lock_exchanges_nothing(
    settings: Settings, kafka: KafkaSettings, projected: Projected, audit_pool: Pool
) -> None:
    await project(audit_pool, [*S1, *S2])
    await publish(kafka, [*S1, *S2])
    await projected.execute("UPDATE audit.session_events SET body = 'x' WHERE seq = 3")
    before = await history(projected)

    async def lose_the_lock(progress: JsonObject) -> None:
        if progress["phase"] == "switching":
            assert await projected.fetch(LOCK_LOST)

    with pytest.raises(RetryLater, match="lost its lock"):
        await rebuild_projection(settings, RebuildTerms(report=lose_the_lock))
    assert await history(projected) == before


_FORGE = """
INSERT INTO audit.requests (tenant_id, request_id, kind, requested_by, reason, needs_confirmation, accept_loss)
SELECT tenant_id, $2, kind, requested_by, reason, false, accept_loss FROM audit.requests WHERE request_id = $1
"""


async def said_to_need_nobody(pool: Pool, request: AuditRequest) -> AuditRequest:
    """The same request, as anybody who writes rows in the gateway's name may say that it needs no second person."""
    forged = replace(request, request_id=new_id())
    async with tenant_transaction(pool, "default") as connection:
        await connection.execute(_FORGE, request.request_id, forged.request_id)
    return forged


async def test_a_loss_is_accepted_by_name_by_two_people_and_what_was_replaced_is_kept(
    settings: Settings, kafka: KafkaSettings, projected: Projected, pool: Pool
) -> None:
    await publish(kafka, [*S1, *S2])
    async with running_audit(settings):
        await projected.until_offsets(25)
    before = await history(projected)
    await replace_log(kafka, [*S1[:12], *S2[:4]])
    async with running_audit(settings):
        refused = await served(pool, await request_rebuild(pool, "default", requested_by="ada"))
        assert lost(refused) == [("s1", 8), ("s2", 1)]
        with pytest.raises(Invalid, match="a reason is required"):
            await request_rebuild(pool, "default", requested_by="ada", accept_loss=["s1"])
        with pytest.raises(Invalid, match="no rebuild was refused because of default/s3"):
            await request_rebuild(pool, "default", requested_by="ada", accept_loss=["s1", "s3"], reason="lost")
        one = await request_rebuild(pool, "default", requested_by="ada", accept_loss=["s1"], reason="disk lost")
        with pytest.raises(Forbidden, match="ada asked for it: a second person"):
            await confirm_audit_request(pool, "default", one.request_id, confirmed_by="ada", is_person=True)
        with pytest.raises(Forbidden, match="cron is a service"):
            await confirm_audit_request(pool, "default", one.request_id, confirmed_by="cron", is_person=False)
        await confirm_audit_request(pool, "default", one.request_id, confirmed_by="bob", is_person=True)
        assert lost(await served(pool, one)) == [("s2", 1)]
        assert await history(projected) == before
        # Both were named by the first refusal only; the newest one counts, so it is asked for again.
        await served(pool, await request_rebuild(pool, "default", requested_by="ada"))
        both = await request_rebuild(pool, "default", requested_by="ada", accept_loss=["s1", "default/s2"], reason="x")
        assert (both.needs_confirmation, both.confirmed_by) == (True, None)
        forged = await said_to_need_nobody(pool, both)
        assert "no second person confirmed it" in str((await served(pool, forged)).outcome)
        assert await history(projected) == before
        await confirm_audit_request(pool, "default", both.request_id, confirmed_by="bob", is_person=True)
        done = await served(pool, both)
        assert done.outcome is not None
        assert (done.outcome["ok"], done.outcome["sessions_lost"]) == (True, ["default/s1", "default/s2"])
        assert (done.requested_by, done.confirmed_by, done.reason) == ("ada", "bob", "x")
        assert (done.progress or {})["phase"] == "switching"
        with pytest.raises(Conflict, match="does not wait"):
            await confirm_audit_request(pool, "default", both.request_id, confirmed_by="eve", is_person=True)
        assert await projected.seqs("s1") == list(range(1, 13))
        assert await history(projected, KEPT) == before
        await until_anchored(projected)
        keys = load_public_keys(settings.audit_signing_key_file.with_name("audit.pub"))
        assert (await HistoryVerifier(pool, "default", keys).verify_sessions()).problems == []
        again = (await served(pool, await request_rebuild(pool, "default", requested_by="ada"))).outcome
        assert again is not None
        assert "events of 2 sessions that are nowhere else" in str(again["error"])
        dropped = await request_drop_of_replaced_projection(pool, "default", requested_by="ada", reason="exported")
        assert dropped.needs_confirmation
        forged = await said_to_need_nobody(pool, dropped)
        assert "no second person confirmed it" in str((await served(pool, forged)).outcome)
        await confirm_audit_request(pool, "default", dropped.request_id, confirmed_by="bob", is_person=True)
        assert (await served(pool, dropped)).outcome == {"ok": True, "dropped": True, "sessions_lost": 2}
    assert await history(projected, KEPT) == []
    with pytest.raises(NotFound, match="no replaced projection"):
        await request_drop_of_replaced_projection(pool, "default", requested_by="ada", reason="again")


async def test_no_more_is_lost_than_was_accepted(
    settings: Settings, kafka: KafkaSettings, projected: Projected, audit_pool: Pool
) -> None:
    await project(audit_pool, [*S1, *S2])
    await publish(kafka, [*S1[:12], *S2])
    before = await history(projected)
    with pytest.raises(WouldLoseEvents, match="8 lost"):
        await rebuild_projection(settings, RebuildTerms(accepted={"default/s1": (7, 0)}))
    assert await history(projected) == before
    outcome = await rebuild_projection(settings, RebuildTerms(accepted={"default/s1": (8, 0)}))
    assert outcome["sessions_lost"] == ["default/s1"]


async def test_an_order_that_was_carried_out_but_not_answered_is_not_carried_out_twice(
    settings: Settings, kafka: KafkaSettings, projected: Projected, audit_pool: Pool
) -> None:
    await project(audit_pool, S1)
    await publish(kafka, S1[:12])
    order = RebuildTerms(request_id="r1", accepted={"default/s1": (8, 0)})
    first = await rebuild_projection(settings, order)
    assert await rebuild_projection(settings, order) == first
    with pytest.raises(Conflict, match="flotilla audit drop-kept"):
        await rebuild_projection(settings)
    assert (await drop_kept_projection(audit_pool, is_confirmed=True))["dropped"]
    assert (await rebuild_projection(settings))["sessions_lost"] == []


async def test_a_rebuild_that_is_killed_leaves_the_old_or_the_new_projection_whole(
    settings: Settings, kafka: KafkaSettings, projected: Projected, pool: Pool, audit_pool: Pool
) -> None:
    events = [event for n in range(20) for event in events_of(f"s{n}", range(1, 101))]
    await project(audit_pool, events)
    await publish(kafka, events)
    before = await history(projected)
    environment = {
        **os.environ,
        "FLOTILLA_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": settings.kafka_session_events_topic,
        "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": settings.kafka_checkpoints_topic,
        "FLOTILLA_AUDIT_SIGNING_KEY_FILE": str(settings.audit_signing_key_file),
        "FLOTILLA_AUDIT_BATCH_EVENTS": "50",
    }
    for kill_at in (1, 500, 1200, 1900):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "audit_consumer.rebuild", env=environment, stderr=asyncio.subprocess.DEVNULL
        )

        async def gone_so_far(kill_at: int = kill_at, process: asyncio.subprocess.Process = process) -> bool:
            (row,) = await projected.fetch("SELECT count(*) AS events FROM audit_next.session_events")
            return bool(row["events"] >= kill_at) or process.returncode is not None

        await eventually(gone_so_far, 60)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
        assert await history(projected) == before
    assert (await HistoryVerifier(pool, "default").verify_sessions()).ok
    await rebuild_projection(settings)
    assert await history(projected) == before
