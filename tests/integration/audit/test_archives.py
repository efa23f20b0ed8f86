"""Sessions that leave the projection for a file, and come back: what may go, what proves it, and who is refused."""

import asyncio
import gzip
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from audit_consumer import archiving
from audit_consumer.archiving import archive_sessions, restore_session
from audit_consumer.decisions import accept_parked_history
from audit_consumer.projection import Projection
from audit_consumer.requests import retry_parked_session
from audit_consumer.rewinds import HistoryDecision
from flotilla.audit.archives import (
    ArchiveFile,
    hand_in_archived_events,
    list_archivable_sessions,
    list_archives,
    request_archive,
    request_restore,
)
from flotilla.audit.export_format import Event, decode_export_line
from flotilla.audit.parked_history import explain_parked_session
from flotilla.audit.verify import HistoryVerifier, Verdict
from flotilla.audit.verify_export import main as verify_main
from flotilla.audit.verify_export import verify_export
from flotilla.contracts.errors import Conflict, NotFound, Refused, SessionArchived, Undecodable
from flotilla.eventstore.sessions import ensure_session, fork_session
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Pool, Viewer, acting_as, tenant_transaction
from tests.support.audit import Projected
from tests.support.exports import TENANT, Recorder, said
from tests.support.postgres import Database
from tests.support.waiting import eventually

ROWS = """
SELECT session_id, seq, event_id, type, occurred_at, run_id, rolled_back_to, kafka_partition, kafka_offset, hash,
    body, event
FROM audit.session_events WHERE session_id = $1 ORDER BY seq
"""
LATER = datetime.now(UTC) + timedelta(hours=1)
OPEN_RUN = """
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request)
VALUES ('default', 'r', 's1', 'ada', 'w', 'q', 'running', '{}')
"""
HELD = "INSERT INTO flotilla.legal_holds VALUES ('default', 'user/flotilla/ada', 'case 4 O 17', 'otto')"
SUSPENDED = """
INSERT INTO flotilla_ops.tenants (tenant_id, created_by, suspended_by, suspended_at, suspended_for)
VALUES ('default', '', 'otto', now(), 'it moves')
"""
PARKED = """
INSERT INTO audit.parked_events (tenant_id, kafka_partition, kafka_offset, session_id, seq, reason, detail, body)
VALUES ('default', 0, 99, 's1', 9, 'gap', 'd', '')
"""

AGAIN = """
INSERT INTO parked_events (tenant_id, kafka_partition, kafka_offset, session_id, seq, event_id, reason, detail, body)
VALUES ('default', $1, 999, 's2', 2, $2, 'conflict', 'd', $3)
"""

IN_OUTBOX = """
INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body)
SELECT 0, tenant_id, session_id, seq, event_id, body FROM audit.session_events WHERE session_id = 's1' AND seq = 1301
"""
WAITS = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
RECORDS = """
SELECT count(*) AS rows, count(DISTINCT a.recorded_seq) AS seqs, min(e.event #>> '{data,change}') AS says
FROM audit.archives AS a JOIN audit.session_events AS e
ON e.tenant_id = a.tenant_id AND e.session_id = 'flotilla:audit' AND e.seq = a.recorded_seq WHERE a.request_id = $1
"""


@pytest.fixture
def recorder(pool: Pool, audit_pool: Pool, database: Database, tmp_path: Path) -> Recorder:
    return Recorder(pool, audit_pool, database, tmp_path)


async def two_sessions(recorder: Recorder) -> None:
    """A long one, with snapshots and a rollback, and a short one."""
    for session, count in (("s1", 1300), ("s2", 3)):
        await recorder.store.ensure_session(session, "ada")
        await recorder.store.append(session, [said(f"{session} {number}") for number in range(count)])
    await recorder.store.rollback("s1", 1200)
    await recorder.project()


async def archived(recorder: Recorder, *sessions: str) -> bytes:
    """The sessions, archived; the file."""
    found = {one.session_id: one.seq for one in await list_archivable_sessions(recorder.pool, TENANT, LATER, "", 100)}
    file = b"".join([await recorder.export(session) for session in sessions])
    request = await asked(recorder, {session: found[session] for session in sessions}, file)
    outcome = await archive_sessions(recorder.audit_pool, TENANT, request)
    assert outcome == {"archived": len(sessions), "kept": []}
    return file


async def asked(recorder: Recorder, sessions: dict[str, int], file: bytes = b"") -> str:
    """The id of a request to archive, which is recorded."""
    named = ArchiveFile(place="/archive/x", sha256=sha256(file).digest(), sessions=sessions)
    async with tenant_transaction(recorder.pool, TENANT) as connection:
        request = await request_archive(connection, TENANT, named, "otto")
    await recorder.project()
    return request.request_id


async def handed_in(recorder: Recorder, file: bytes, session: str) -> None:
    lines = [decode_export_line(raw) for raw in file.splitlines(keepends=True)]
    events = [(line.seq, line.body) for line in lines if type(line) is Event and line.session == session]
    async with tenant_transaction(recorder.pool, TENANT) as connection:
        for first in range(0, len(events), 500):
            await hand_in_archived_events(connection, TENANT, session, events[first : first + 500])
        await request_restore(connection, TENANT, session, "otto")
    await recorder.project()


async def verified(recorder: Recorder, session: str | None = None) -> Verdict:
    return await HistoryVerifier(recorder.pool, TENANT, recorder.keys()).verify_sessions(session)


async def test_an_archived_session_leaves_its_head_and_comes_back_as_it_was(
    recorder: Recorder, projected: Projected
) -> None:
    await two_sessions(recorder)
    before, state = await projected.fetch(ROWS, "s1"), await recorder.store.state_at("s1")
    file = await archived(recorder, "s1")
    assert await projected.fetch(ROWS, "s1") == []
    verdict = await verified(recorder)
    assert (verdict.ok, verdict.problems) == (True, [])
    assert {one.session_id: one.archived_seq for one in verdict.sessions if one.archived_seq} == {"s1": 1301}
    assert verify_export(file.splitlines(keepends=True), recorder.keys()).word == "GOOD"
    await handed_in(recorder, file, "s1")
    assert await restore_session(recorder.audit_pool, (TENANT, "s1")) == {"restored": 1301}
    assert await projected.fetch(ROWS, "s1") == before
    assert await recorder.store.state_at("s1") == state
    (snapshots,) = await projected.fetch("SELECT count(*) AS rows FROM audit.snapshots WHERE session_id = 's1'")
    assert snapshots["rows"] == 1
    assert (await verified(recorder)).ok
    (row,) = await list_archives(recorder.pool, TENANT, "s1", (None, None), 10)
    assert (row.is_away, row.seq, row.restored_at is None) == (False, 1301, False)
    assert await projected.fetch("SELECT FROM audit.returned_events") == []


async def test_what_is_away_is_not_read_and_does_not_go_on(recorder: Recorder, projected: Projected) -> None:
    await two_sessions(recorder)
    await recorder.store.fork("s1", 10, "fork")
    await recorder.project()
    await archived(recorder, "fork")
    await archived(recorder, "s1")
    await projected.execute("DELETE FROM flotilla.event_outbox")  # the relay has taken them
    for read, session in (
        (recorder.store.state_at("s1"), "s1"),
        (recorder.store.replay("s1"), "s1"),
        (recorder.store.state_at("s1", time=LATER), "s1"),
        (recorder.export("s1"), "s1"),
        (recorder.store.fork("s1", 5), "s1"),
        (recorder.store.state_at("fork"), "fork|s1"),
        (recorder.export("fork"), "fork|s1"),
    ):
        with pytest.raises(SessionArchived, match=rf"events 1 to \d+ of session ({session}) are in an archive"):
            await read
    async with tenant_transaction(recorder.pool, TENANT) as connection:
        with pytest.raises(SessionArchived):
            await ensure_session(connection, TENANT, "s1", "ada")
    assert [event.data["content"] for event in await recorder.store.replay("s2")] == ["s2 0", "s2 1", "s2 2"]


def standalone(file: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The verifier's exit code, and the first word of each line."""
    code = verify_main([str(file), "--public-key", str(recorder.public_key)])
    return code, [line.split()[0] for line in capsys.readouterr().out.splitlines()]


async def test_the_verifier_reads_archives_alone(
    recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_sessions(recorder)
    exports = [await recorder.export(session) for session in ("s1", "s2")]
    good = b"".join(gzip.compress(export) for export in exports)
    last = len(gzip.compress(exports[1]))
    file = tmp_path / "archive.gz"
    for content, expected in (
        (good, (0, ["GOOD", "GOOD"])),
        (b"".join(exports), (0, ["GOOD", "GOOD"])),
        (good[:-last], (0, ["GOOD"])),  # whose hash is another one than was recorded
        (good[: -last // 2], (1, ["BAD", "BAD"])),
        (good[:-1], (1, ["BAD", "BAD"])),
        (gzip.compress(b"".join(exports).replace(b"s2 1", b"s2 7")), (1, ["BAD", "BAD"])),
        (gzip.compress(exports[0] + exports[1].replace(b'"kind":"end"', b'"kind":"enD"')), (1, ["BAD", "BAD"])),
        (good + gzip.compress(exports[1]), (1, ["BAD", "BAD"])),
        (gzip.compress(b""), (2, [])),
    ):
        file.write_bytes(content)
        assert standalone(file, recorder, capsys) == expected


async def test_an_archived_session_goes_on_with_what_the_fleet_records(recorder: Recorder) -> None:
    await two_sessions(recorder)
    file = await archived(recorder, "s2")
    await recorder.store.append("s2", [said("subject_erased")])
    await recorder.project()
    verdict = await verified(recorder, "s2")
    assert (verdict.ok, verdict.sessions[0].archived_seq, verdict.sessions[0].verified_seq) == (True, 3, 4)
    assert [event.sequence for event in await recorder.store.replay("s2", 4)] == [4]
    await handed_in(recorder, file, "s2")
    await restore_session(recorder.audit_pool, (TENANT, "s2"))
    assert [event.sequence for event in await recorder.store.replay("s2")] == [1, 2, 3, 4]
    assert (await verified(recorder)).ok


@pytest.mark.parametrize("obstacle", [OPEN_RUN, HELD, SUSPENDED, PARKED], ids=["open", "held", "suspended", "parked"])
async def test_what_is_open_held_or_parked_stays(recorder: Recorder, projected: Projected, obstacle: str) -> None:
    await two_sessions(recorder)
    request = await asked(recorder, {"s1": 1301})
    await projected.execute(obstacle)
    assert "s1" not in {one.session_id for one in await list_archivable_sessions(recorder.pool, TENANT, LATER, "", 100)}
    with pytest.raises(Conflict, match="s1"):
        await asked(recorder, {"s1": 1301})
    assert await archive_sessions(recorder.audit_pool, TENANT, request) == {"archived": 0, "kept": ["s1"]}
    assert len(await projected.fetch(ROWS, "s1")) == 1301


async def test_what_is_still_in_the_outbox_is_not_archived(recorder: Recorder, projected: Projected) -> None:
    await two_sessions(recorder)
    request = await asked(recorder, {"s1": 1301})
    await projected.execute(IN_OUTBOX)
    assert [one.session_id for one in await list_archivable_sessions(recorder.pool, TENANT, LATER, "", 100)] == ["s2"]
    assert await archive_sessions(recorder.audit_pool, TENANT, request) == {"archived": 0, "kept": ["s1"]}
    await projected.execute("DELETE FROM flotilla.event_outbox")
    assert await archive_sessions(recorder.audit_pool, TENANT, request) == {"archived": 1, "kept": []}


async def test_a_fork_that_is_being_made_keeps_its_parent(recorder: Recorder, projected: Projected) -> None:
    await two_sessions(recorder)
    request = await asked(recorder, {"s1": 1301})
    async with tenant_transaction(recorder.pool, TENANT) as connection:
        forked = {"new_session_id": "fork", "user_id": None, "source": "/tests"}
        await fork_session(connection, TENANT, "s1", 10, **forked)  # type: ignore[arg-type]
        archiving_it = asyncio.create_task(archive_sessions(recorder.audit_pool, TENANT, request))
        await eventually(lambda: projected.fetch(WAITS))
    assert await archiving_it == {"archived": 0, "kept": ["s1"]}
    assert len(await recorder.store.replay("fork")) == 11


async def test_a_session_that_is_being_archived_is_not_forked(recorder: Recorder, projected: Projected) -> None:
    await two_sessions(recorder)
    await asked(recorder, {"s1": 1301})
    async with recorder.audit_pool.acquire() as connection, connection.transaction():
        assert await connection.fetchval("SELECT audit.may_archive($1, 's1', 1301)", TENANT)
        forking = asyncio.create_task(recorder.store.fork("s1", 10, "fork"))
        await eventually(lambda: projected.fetch(WAITS))
        await connection.execute(archiving._NOTE_ARCHIVED, TENANT, "s1", 1301)
        await connection.execute(archiving._LEAVE, TENANT, "s1")
    with pytest.raises(SessionArchived):
        await forking


async def test_the_audit_consumer_looks_for_its_request_at_one_event(recorder: Recorder, projected: Projected) -> None:
    await two_sessions(recorder)
    file = await archived(recorder, "s2")
    await handed_in(recorder, file, "s2")
    await restore_session(recorder.audit_pool, (TENANT, "s2"))
    request = await asked(recorder, {"s1": 1301, "s2": 3})
    (row,) = await projected.fetch(RECORDS, request)
    assert (row["rows"], row["seqs"], row["says"]) == (2, 1, "audit_archive_made")
    is_recorded = partial(recorder.audit_pool.fetchval, archiving._IS_RECORDED, TENANT, request)
    assert await is_recorded()
    for another in ("recorded_seq = recorded_seq - 1", "hash = sha256('x')"):
        await projected.execute(f"UPDATE audit.archives SET {another} WHERE session_id = 's2'")
        assert not await is_recorded()


async def test_what_a_gateway_of_the_former_version_asked_for_is_found(
    recorder: Recorder, projected: Projected
) -> None:
    await two_sessions(recorder)
    request = await asked(recorder, {"s1": 1301})
    await projected.execute("UPDATE audit.archives SET recorded_seq = NULL")
    assert await archive_sessions(recorder.audit_pool, TENANT, request) == {"archived": 1, "kept": []}


async def test_what_is_new_unsigned_forked_or_of_another_tenant_can_not_be_archived(recorder: Recorder) -> None:
    await two_sessions(recorder)

    async def archivable(before: datetime = LATER) -> list[str]:
        return [one.session_id for one in await list_archivable_sessions(recorder.pool, TENANT, before, "", 100)]

    assert await archivable() == ["s1", "s2"]
    assert await archivable(datetime.now(UTC) - timedelta(hours=1)) == []
    assert await list_archivable_sessions(recorder.pool, "globex", LATER, "", 100) == []
    await recorder.store.append("s2", [said("more")])
    await recorder.project(signed=False)
    assert await archivable() == ["s1"]
    await recorder.store.fork("s1", 10, "fork")
    await recorder.project()
    assert await archivable() == ["fork"]
    await archived(recorder, "fork")
    assert await archivable() == ["s1"]
    await recorder.store.fork("s1", 10, "not-projected-yet")
    assert await archivable() == []
    with pytest.raises(Conflict, match="flotilla:audit"):
        await asked(recorder, {"flotilla:audit": 1})


async def test_events_that_were_taken_away_are_not_archived(recorder: Recorder, projected: Projected) -> None:
    await two_sessions(recorder)
    await projected.execute(
        "UPDATE audit.session_heads SET archived_seq = seq, archived_hash = hash WHERE session_id = 's2'"
    )
    await projected.execute("DELETE FROM audit.session_events WHERE session_id = 's2'")
    (problem,) = (await verified(recorder)).problems
    assert (problem.session_id, problem.kind) == ("s2", "truncated")
    assert "no event of the audit session" in problem.detail


async def test_a_head_that_was_changed_after_the_archive_is_found(recorder: Recorder, projected: Projected) -> None:
    await two_sessions(recorder)
    await archived(recorder, "s2")
    await projected.execute("UPDATE audit.session_heads SET archived_hash = sha256('x') WHERE session_id = 's2'")
    (problem,) = (await verified(recorder)).problems
    assert (problem.session_id, problem.kind) == ("s2", "rewritten")


@pytest.mark.parametrize("changed", ["altered", "left out", "cut", "moved", "no event"])
async def test_only_what_left_comes_back(recorder: Recorder, projected: Projected, changed: str) -> None:
    await two_sessions(recorder)
    file = await archived(recorder, "s1", "s2")
    altered = {
        "altered": file.replace(b"s2 1", b"s2 7"),
        "left out": b"".join(line for line in file.splitlines(keepends=True) if b"s2 1" not in line),
        "cut": b"".join(line for line in file.splitlines(keepends=True) if b"s2 2" not in line),
        "moved": file.replace(b'"session":"s2","seq":2', b'"session":"s2","seq":9')
        .replace(b'"session":"s2","seq":3', b'"session":"s2","seq":2')
        .replace(b'"session":"s2","seq":9', b'"session":"s2","seq":3'),
        "no event": b"".join(
            line.replace(b'"body":"{', b'"body":"x{') if b'"session":"s2","seq":2' in line else line
            for line in file.splitlines(keepends=True)
        ),
    }[changed]
    assert altered != file
    await handed_in(recorder, altered, "s2")
    with pytest.raises((Refused, Undecodable)):
        await restore_session(recorder.audit_pool, (TENANT, "s2"))
    assert await projected.fetch(ROWS, "s2") == []
    assert await projected.fetch("SELECT FROM audit.returned_events") == []
    await handed_in(recorder, file, "s2")
    assert await restore_session(recorder.audit_pool, (TENANT, "s2")) == {"restored": 3}


async def test_events_are_taken_back_of_archived_sessions_only(recorder: Recorder) -> None:
    await two_sessions(recorder)
    await archived(recorder, "s2")
    async with tenant_transaction(recorder.pool, TENANT) as connection:
        for session, seq in (("s1", 1), ("nobody", 1), ("s2", 4)):
            with pytest.raises(NotFound):
                await hand_in_archived_events(connection, TENANT, session, [(seq, "{}")])


@pytest.mark.parametrize("at", ["_NOTE_ARCHIVED", "_DELETE_EVENTS", "_DELETE_SNAPSHOTS", "_LEAVE"])
async def test_an_archive_ends_wherever_the_audit_consumer_is_killed(
    recorder: Recorder, projected: Projected, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    await two_sessions(recorder)
    before = await projected.fetch(ROWS, "s1")
    request = await asked(recorder, {"s1": 1301, "s2": 3})
    with monkeypatch.context() as patch:
        patch.setattr(archiving, at, f"{getattr(archiving, at).rstrip()} AND pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(Exception, match=r"connection|terminat"):
            await archive_sessions(recorder.audit_pool, TENANT, request)
    assert await projected.fetch(ROWS, "s1") == before
    for _ in range(2):
        assert await archive_sessions(recorder.audit_pool, TENANT, request) == {"archived": 2, "kept": []}
    assert (await verified(recorder)).ok


async def test_a_record_of_an_archived_event_that_comes_again_waits_for_the_restore(
    recorder: Recorder, projected: Projected
) -> None:
    await two_sessions(recorder)
    (_, again, _) = await projected.fetch(ROWS, "s2")
    file = await archived(recorder, "s2")
    await recorder.audit_pool.execute(AGAIN, lane_of_session(TENANT, "s2"), again["event_id"], again["body"])
    decision = HistoryDecision(session=(TENANT, "s2"), request_id="r", by="otto", reason="why", asked_at=LATER)
    with pytest.raises(Refused, match="events 1 to 3 of session s2 are in an archive"):
        await accept_parked_history(recorder.audit_pool, Projection(recorder.audit_pool), _publish, decision)
    assert [choice.verb for choice in (await explain_parked_session(recorder.pool, TENANT, "s2")).choices] == [
        "flotilla audit parked retry s2"
    ]
    await handed_in(recorder, file, "s2")
    assert await restore_session(recorder.audit_pool, (TENANT, "s2")) == {"restored": 3}
    outcome = await retry_parked_session(recorder.audit_pool, Projection(recorder.audit_pool), (TENANT, "s2"))
    assert outcome == {"projected": 0, "still_parked": False}
    assert (await verified(recorder)).ok


async def test_nothing_of_a_session_that_somebody_may_not_see_is_brought_back(
    recorder: Recorder, projected: Projected
) -> None:
    await two_sessions(recorder)
    await archived(recorder, "s2")
    await projected.execute("UPDATE flotilla.sessions SET owner = 'user/flotilla/ada', visibility = 'private'")
    with acting_as(Viewer(names=("user/flotilla/eve",), roles=("admin",))):
        async with tenant_transaction(recorder.pool, TENANT) as connection:
            with pytest.raises(NotFound):
                await hand_in_archived_events(connection, TENANT, "s2", [(1, "{}")])
            with pytest.raises(NotFound):
                await request_restore(connection, TENANT, "s2", "eve")


async def _publish(_session: object, _events: object) -> None:
    """Nothing is put into Kafka."""
