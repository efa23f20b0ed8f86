"""A parked session has a way out: either history, recorded, signed, and the same after a rebuild."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit_consumer.decisions import accept_parked_history
from audit_consumer.projection import Projection
from audit_consumer.projection_rows import SessionKey
from audit_consumer.rebuild import rebuild_projection
from audit_consumer.rewinds import HistoryDecision
from audit_consumer.settings import Settings
from flotilla.audit.export import export_session
from flotilla.audit.parked_history import explain_parked_session
from flotilla.audit.proof import Statement
from flotilla.audit.requests import (
    AuditRequest,
    get_audit_request,
    list_parked_sessions,
    request_accept,
    request_decision_for_all_parked,
    request_discard,
    request_reject,
    request_retry,
)
from flotilla.audit.verify import HistoryVerifier, Verdict
from flotilla.audit.verify_export import verify_export
from flotilla.config import KafkaSettings
from flotilla.config.signing import load_public_keys
from flotilla.contracts.envelope import decode_event, encode_event
from flotilla.contracts.errors import Invalid, NotFound, Parked
from flotilla.contracts.ids import utc_now
from flotilla.eventstore import AgentEventStore
from flotilla.kafka.lanes import lane_of_session
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import Pool
from tests.support.audit import (
    Projected,
    audit_settings,
    event_at,
    events_of,
    producing,
    project_directly,
    publish,
    records_of,
    relay_all,
    running_audit,
    until_anchored,
)
from tests.support.postgres import Database
from tests.support.session_events import message
from tests.support.waiting import eventually

WHO: dict[str, Any] = {"requested_by": "ada", "reason": "failed over"}
TEXTS = """
SELECT convert_from(body, 'UTF8')::jsonb -> 'data' ->> 'content' AS text FROM audit.session_events
WHERE session_id = $1 ORDER BY seq
"""
SET_ASIDE = "SELECT seq, detail FROM audit.parked_events WHERE session_id = $1 AND reason = 'discarded' ORDER BY seq"
OLD, NEW = ["a", "b", "c", "old 4", "old 5"], ["a", "b", "c", "new 4", "new 5", "new 6"]


@dataclass(frozen=True)
class Fleet:
    """An application that appends, a relay by hand, and a running audit consumer."""

    database: Database
    kafka: KafkaSettings
    projected: Projected
    pool: Pool
    settings: Settings

    async def append(self, session_id: str, *texts: str) -> None:
        await AgentEventStore(self.pool).append(session_id, [message(text) for text in texts])

    async def relay(self) -> None:
        await relay_all(self.database, self.kafka)

    async def fail_over(self, session_id: str, *texts: str) -> None:
        """PostgreSQL loses the session's last two events, which Kafka has; the application goes on with others."""
        others = texts or NEW[3:]
        await AgentEventStore(self.pool).ensure_session(session_id, "ada")
        await self.append(session_id, *OLD)
        await self.relay()
        await self.projected.until(session_id, 5)
        await until_anchored(self.projected)
        await self.projected.execute("UPDATE flotilla.sessions SET head_seq = 3 WHERE session_id = $1", session_id)
        await self.append(session_id, *others)
        await self.relay()

        async def parked() -> bool:
            return len(await self.projected.parked(session_id)) == len(others)

        await eventually(parked, 30)

    async def texts(self, session_id: str) -> list[str]:
        return [row["text"] for row in await self.projected.fetch(TEXTS, session_id)]

    async def set_aside(self, session_id: str) -> list[tuple[int, str]]:
        return [(row["seq"], row["detail"]) for row in await self.projected.fetch(SET_ASIDE, session_id)]

    async def served(self, request: Coroutine[Any, Any, AuditRequest]) -> dict[str, Any]:
        asked = await request

        async def finished() -> AuditRequest | None:
            now = await get_audit_request(self.pool, "default", asked.request_id)
            return now if now.finished_at else None

        return dict((await eventually(finished, 60)).outcome or {})

    async def verify(self, session_id: str | None = None) -> Verdict:
        keys = load_public_keys(self.settings.audit_signing_key_file.with_name("audit.pub"))
        async with open_kafka_log(self.kafka) as log:
            return await HistoryVerifier(self.pool, "default", keys, log).verify_sessions(session_id)

    async def statements(self, session_id: str) -> list[Statement]:
        lane = lane_of_session("default", session_id)
        query = "SELECT statement FROM audit.checkpoints WHERE kafka_partition = $1 ORDER BY number"
        return [Statement.from_bytes(row["statement"]) for row in await self.projected.fetch(query, lane)]


@pytest.fixture
async def fleet(
    database: Database, kafka: KafkaSettings, projected: Projected, pool: Pool, tmp_path: Path
) -> AsyncIterator[Fleet]:
    settings = audit_settings(database, kafka, tmp_path)
    async with running_audit(settings):
        yield Fleet(database, kafka, projected, pool, settings)


async def test_a_parked_session_is_explained(fleet: Fleet) -> None:
    await fleet.fail_over("s1")
    found = await explain_parked_session(fleet.pool, "default", "s1")
    assert (found.reason, found.first_seq, found.committed_seq, found.projected_seq) == ("conflict", 4, 6, 5)
    assert [(event.seq, event.reason) for event in found.waiting] == [(4, "conflict"), (5, "conflict"), (6, "waiting")]
    assert [event.seq for event in found.projected] == [4, 5]
    assert found.waiting[0].sha256 != found.projected[0].sha256
    assert [signed.seq for signed in found.signed] == [5]
    assert [choice.verb.split()[3] for choice in found.choices] == ["accept", "reject", "discard"]
    with pytest.raises(NotFound, match="nothing of session s2"):
        await explain_parked_session(fleet.pool, "default", "s2")


async def test_reads_of_a_parked_session_give_the_reason_and_the_verb(fleet: Fleet) -> None:
    await fleet.fail_over("s1")
    async with open_kafka_log(fleet.kafka) as log:
        for kafka in (log, None):
            with pytest.raises(Parked, match=r"s1 is parked since .*conflict: seq 4 is taken.*parked explain s1"):
                await AgentEventStore(fleet.pool, "default", kafka).read_page("s1")


async def test_the_history_that_waits_is_taken(fleet: Fleet) -> None:
    await fleet.fail_over("s1")
    outcome = await fleet.served(request_accept(fleet.pool, "default", "s1", **WHO))
    assert (outcome["ok"], outcome["set_aside"], outcome["projected"], outcome["still_parked"]) == (True, 2, 3, False)
    assert await fleet.texts("s1") == NEW
    assert await fleet.set_aside("s1") == [(4, "set aside by ada: failed over"), (5, "set aside by ada: failed over")]
    await goes_on(fleet, "s1", [*NEW, "more"])
    assert [statement.epoch for statement in await fleet.statements("s1")][:2] == [1, 2]


async def test_a_history_that_ends_earlier_is_taken(fleet: Fleet) -> None:
    await fleet.fail_over("s1", "new 4")
    outcome = await fleet.served(request_accept(fleet.pool, "default", "s1", **WHO))
    assert (outcome["set_aside"], outcome["projected"]) == (2, 1)
    await until_anchored(fleet.projected)
    assert await fleet.texts("s1") == [*OLD[:3], "new 4"]
    for named in ("s1", None):
        assert (await fleet.verify(named)).problems == []


async def test_the_projected_history_is_kept(fleet: Fleet) -> None:
    await fleet.fail_over("s1")
    outcome = await fleet.served(request_reject(fleet.pool, "default", "s1", **WHO))
    assert outcome == {"ok": True, "set_aside": 3, "projected": 0, "still_parked": False}
    assert await fleet.texts("s1") == OLD
    assert (await AgentEventStore(fleet.pool).session("s1")).head_seq == 5
    assert [seq for seq, _ in await fleet.set_aside("s1")] == [4, 5, 6]
    await goes_on(fleet, "s1", [*OLD, "more"])


async def goes_on(fleet: Fleet, session_id: str, texts: list[str]) -> None:
    """The session takes new events, reads, verifies, exports, and comes out of a rebuild, all with one history."""
    await fleet.append(session_id, "more")
    await fleet.relay()
    await fleet.projected.until(session_id, len(texts))
    await until_anchored(fleet.projected)
    assert await fleet.texts(session_id) == texts
    assert len((await AgentEventStore(fleet.pool).read_page(session_id)).bodies) == len(texts)
    for named in (session_id, None):
        assert (await fleet.verify(named)).problems == []
    lines = [line async for line in export_session(fleet.pool, "default", session_id)]
    keys = load_public_keys(fleet.settings.audit_signing_key_file.with_name("audit.pub"))
    exported = verify_export(lines, keys)
    assert (exported.problems, exported.unsigned) == ([], [])
    outcome = await rebuild_projection(fleet.settings)
    assert outcome["sessions_lost"] == []
    assert await fleet.texts(session_id) == texts
    assert await fleet.projected.parked() == []
    assert (await fleet.verify()).problems == []


async def test_a_decision_that_no_checkpoint_signed_does_not_pass(fleet: Fleet) -> None:
    await fleet.fail_over("s1")
    await fleet.served(request_accept(fleet.pool, "default", "s1", **WHO))
    await until_anchored(fleet.projected)
    assert (await fleet.verify("s1")).problems == []
    await fleet.projected.execute("UPDATE audit.rewinds SET from_seq = 2")
    (problem,) = (await fleet.verify("s1")).problems
    assert (problem.kind, problem.seq) == ("rewritten", 2)
    assert "signed no such decision" in problem.detail
    await fleet.projected.execute("DELETE FROM audit.rewinds")
    assert [problem.kind for problem in (await fleet.verify("s1")).problems] == ["rewritten"]


async def test_what_is_on_its_way_is_waited_for_before_anything_is_set_aside(fleet: Fleet) -> None:
    await fleet.fail_over("s1")
    await fleet.append("s1", "in the outbox")
    refused = await fleet.served(request_reject(fleet.pool, "default", "s1", **WHO))
    assert "still on their way" in refused["error"]
    assert [reason for _, reason in await fleet.projected.parked("s1")] == ["conflict", "conflict", "waiting"]


@pytest.mark.parametrize(
    ("decide", "seqs"), [(request_accept, [1, 2, 3, 4, 5]), (request_reject, [1, 2])], ids=["accept", "reject"]
)
async def test_a_gap_is_filled_or_what_waits_behind_it_is_set_aside(
    fleet: Fleet, decide: Callable[..., Coroutine[Any, Any, AuditRequest]], seqs: list[int]
) -> None:
    events = events_of("s1", range(1, 6))
    await publish(fleet.kafka, [*events[:2], events[4]])
    await fleet.projected.until_offsets(3)
    assert await fleet.projected.parked("s1") == [(5, "gap")]
    assert (await fleet.served(decide(fleet.pool, "default", "s1", **WHO)))["ok"]
    assert await fleet.projected.until("s1", seqs[-1]) == seqs
    await until_anchored(fleet.projected)
    assert (await fleet.verify("s1")).problems == []
    assert (await rebuild_projection(fleet.settings))["sessions_lost"] == []
    assert await fleet.projected.seqs("s1") == seqs


async def test_a_gap_that_is_filled_again_gets_the_same_events(audit_pool: Pool) -> None:
    events = [event_at("s1", 1), event_at("s1", 4)]
    await project_directly(audit_pool, records_of(("default", "s1", encode_event(event)) for event in events))
    sent: list[list[bytes]] = []

    async def publish(_session: SessionKey, bodies: Sequence[bytes]) -> None:
        sent.append(list(bodies))

    decision = HistoryDecision(session=("default", "s1"), request_id="r1", by="ada", reason="lost", asked_at=utc_now())
    for _ in range(2):
        await accept_parked_history(audit_pool, Projection(audit_pool), publish, decision)
    assert sent[0] == sent[1]
    assert [decode_event(body).sequence for body in sent[0]] == [2, 3]


async def test_tombstones_and_other_records_that_are_not_events_can_be_set_aside(fleet: Fleet) -> None:
    async with producing(fleet.kafka) as producer:
        for value in (None, b"", b"{", b"\xff"):
            await producer.send_and_wait(fleet.kafka.kafka_session_events_topic, value, key=b"default/s1", partition=0)
    await fleet.projected.until_offsets(4)
    (parked,) = await list_parked_sessions(fleet.pool, "default")
    assert (parked.session_id, parked.reason, parked.events) == (None, "undecodable", 4)
    found = await explain_parked_session(fleet.pool, "default", "-")
    assert "tombstone" in (found.waiting[0].detail or "")
    for decide in (request_accept, request_retry):
        arguments = WHO if decide is request_accept else {"requested_by": "ada"}
        with pytest.raises(Invalid):
            await decide(fleet.pool, "default", "-", **arguments)
    outcome = await fleet.served(request_discard(fleet.pool, "default", "-", **WHO))
    assert outcome == {"ok": True, "set_aside": 4, "still_parked": False}
    assert await list_parked_sessions(fleet.pool, "default") == []
    await rebuild_projection(fleet.settings)
    assert await list_parked_sessions(fleet.pool, "default") == []


async def test_many_sessions_are_decided_at_once_by_what_blocks_them(fleet: Fleet) -> None:
    for name in ("s1", "s2", "s3"):
        other = event_at(name, 2, "other")
        await publish(fleet.kafka, [*events_of(name, [1, 2]), other, event_at(name, 3)])
    await publish(fleet.kafka, [event_at("s4", 2)])
    await fleet.projected.until_offsets(13)
    asked = await request_decision_for_all_parked(fleet.pool, "default", "accept", parked_for="conflict", **WHO)
    assert sorted(request.session_id or "" for request in asked) == ["s1", "s2", "s3"]
    for name in ("s1", "s2", "s3"):
        await fleet.projected.until(name, 3)
        assert (await fleet.texts(name))[1] == "other"
    with pytest.raises(NotFound, match="no session is parked for gap"):
        await request_decision_for_all_parked(
            fleet.pool,
            "default",
            "reject",
            parked_for="gap",
            partition=(lane_of_session("default", "s4") + 1) % 12,
            **WHO,
        )
    await request_decision_for_all_parked(fleet.pool, "default", "reject", parked_for="gap", **WHO)

    async def none_parked() -> bool:
        return await list_parked_sessions(fleet.pool, "default") == []

    await eventually(none_parked, 30)


async def test_a_checkpoint_number_is_never_used_twice(
    database: Database, kafka: KafkaSettings, projected: Projected, pool: Pool, tmp_path: Path
) -> None:
    settings = audit_settings(database, kafka, tmp_path)
    lane = lane_of_session("default", "s1")
    async with running_audit(settings):
        for seq in range(1, 5):
            await publish(kafka, [event_at("s1", seq)])
            await projected.until("s1", seq)
            await until_anchored(projected)
    # PostgreSQL fails over to a standby that lacks the last two checkpoints.
    await projected.execute("DELETE FROM audit.checkpoint_heads WHERE number > 2")
    await projected.execute("DELETE FROM audit.checkpoints WHERE number > 2")
    await projected.execute("UPDATE audit.session_heads SET dirty = true")
    async with running_audit(settings):
        await until_anchored(projected)
    fleet = Fleet(database, kafka, projected, pool, settings)
    last = (await fleet.statements("s1"))[-1]
    assert (last.number, last.epoch, last.abandoned) == (5, 2, 2)
    assert (await fleet.verify()).problems == []
    async with open_kafka_log(kafka) as log:
        copies = await log.read_checkpoints()
    assert {number for partition, number in copies if partition == lane} == {1, 2, 3, 4, 5}


async def test_what_kafka_has_beyond_a_restored_database_is_listed_and_kept_without_a_conflict(
    fleet: Fleet, unique: Callable[[str], str]
) -> None:
    session_id = unique("ahead")
    await AgentEventStore(fleet.pool).ensure_session(session_id, "ada")
    await fleet.append(session_id, *OLD)
    await fleet.relay()
    await fleet.projected.until(session_id, 5)
    assert await list_parked_sessions(fleet.pool, "default") == []
    await fleet.projected.execute("UPDATE flotilla.sessions SET head_seq = 3 WHERE session_id = $1", session_id)
    (listed,) = await list_parked_sessions(fleet.pool, "default")
    assert (listed.session_id, listed.reason, listed.first_seq, listed.events) == (session_id, "ahead", 4, 2)
    explained = await explain_parked_session(fleet.pool, "default", session_id)
    assert (explained.reason, explained.committed_seq, explained.projected_seq) == ("ahead", 3, 5)
    assert ["reject" in choice.verb for choice in explained.choices] == [True]
    (asked,) = await request_decision_for_all_parked(fleet.pool, "default", "reject", parked_for="ahead", **WHO)

    async def finished() -> bool:
        return (await get_audit_request(fleet.pool, "default", asked.request_id)).finished_at is not None

    await eventually(finished, 60)
    await fleet.append(session_id, "after")
    await fleet.relay()
    assert await fleet.projected.until(session_id, 6) == [1, 2, 3, 4, 5, 6]
    assert (await fleet.texts(session_id), await fleet.set_aside(session_id)) == ([*OLD, "after"], [])
    assert await list_parked_sessions(fleet.pool, "default") == []


def other_bytes(session_id: str, seq: int) -> Any:
    return event_at(session_id, seq, "another")


SCENES: dict[str, tuple[str, Callable[[str], Sequence[Any]]]] = {
    "conflict": ("conflict", lambda s: [*events_of(s, range(1, 4)), other_bytes(s, 3), event_at(s, 4)]),
    "gap": ("gap", lambda s: [*events_of(s, range(1, 3)), event_at(s, 5)]),
    "lost beginning": ("gap", lambda s: [event_at(s, 3)]),
    "unknown type": (
        "unknown_type",
        lambda s: [*events_of(s, range(1, 3)), event_at(s, 3, type="flotilla.session.poem.v9"), event_at(s, 4)],
    ),
    "forbidden": (
        "forbidden",
        lambda s: [
            *events_of(s, range(1, 3)),
            event_at(s, 3, kind="state_change", data={"change": "owner_changed"}),
            event_at(s, 4),
        ],
    ),
}
"""What parks a session, by what it is parked for; `ahead` and records of no session have tests of their own."""
DECIDING = {"accept": request_accept, "reject": request_reject, "discard": request_discard}
DECIDED = """
SELECT event -> 'data' -> 'details' ->> 'decision' AS decision FROM audit.session_events
WHERE session_id = 'flotilla:audit' AND event -> 'data' ->> 'change' = 'parked_history_decided'
"""


@pytest.mark.parametrize("scene", SCENES)
async def test_every_way_out_that_is_named_is_one_and_is_recorded(fleet: Fleet, scene: str) -> None:
    reason, history = SCENES[scene]

    async def parked(session: str) -> bool:
        return reason in [why for _, why in await fleet.projected.parked(session)]

    async def parked_session(session: str) -> str:
        await AgentEventStore(fleet.pool).ensure_session(session, "ada")
        events = history(session)
        committed = max(event.sequence for event in events)
        await fleet.projected.execute(
            "UPDATE flotilla.sessions SET head_seq = $2 WHERE session_id = $1", session, committed
        )
        await publish(fleet.kafka, events)
        await eventually(lambda: parked(session), 30)
        return session

    first = await parked_session("s-first")
    explained = await explain_parked_session(fleet.pool, "default", first)
    assert explained.reason == reason
    verbs = [choice.verb.split()[3] for choice in explained.choices]
    decisions = [verb for verb in verbs if verb in DECIDING]
    assert decisions, "nobody is left without a way out"
    for verb in DECIDING.keys() - set(verbs):
        refused = await fleet.served(DECIDING[verb](fleet.pool, "default", first, **WHO))
        assert not refused["ok"] or refused["still_parked"], f"{verb} is a way out, and is not named"
    for verb in decisions:
        session = await parked_session(f"s-{verb}")
        outcome = await fleet.served(DECIDING[verb](fleet.pool, "default", session, **WHO))
        assert outcome["ok"], (verb, outcome, explained.choices)

        async def over(session: str = session) -> bool:
            return await list_parked_sessions(fleet.pool, "default", session) == []

        await eventually(over, 30)
    await fleet.relay()

    async def recorded() -> bool:
        found = [row["decision"] for row in await fleet.projected.fetch(DECIDED)]
        return set(decisions) <= set(found)

    await eventually(recorded, 30)
    await until_anchored(fleet.projected)
    named = {problem.kind for problem in (await fleet.verify()).problems if problem.session_id != first}
    assert named == ({"forbidden"} if reason == "forbidden" else set()), "evidence of a forgery stays named"
