"""Long sessions: snapshots give the same states as all events, and the state at a time."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from audit_consumer.snapshotting import write_due_snapshots
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore import AgentEventStore, fold
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from tests.support.audit import Projected, outbox_bodies, project_directly, records_of
from tests.support.postgres import Database

START = datetime(2026, 1, 1, tzinfo=UTC)


def some_event(number: int, chance: random.Random) -> AgentStateEvent:
    call = f"c{number // 2}"
    data: dict[str, JsonObject] = {
        "message": {"role": "user", "content": f"message {number}"},
        "tool_call": {"tool": "t", "call_id": call, "args": {"n": number}},
        "tool_result": {"tool": "t", "call_id": call, "ok": True, "duration_ms": 1.0, "result": number},
        "state_change": {"change": "x", "set": {f"v{number % 7}": number}, "unset": [f"v{number % 5}"]},
        "error": {"type": "E", "message": str(number), "where": "here"},
    }
    kind = chance.choice(["message", "tool_call", "tool_result", "state_change", "error"])
    return AgentStateEvent(kind=kind, data=data[kind], source="/test")  # type: ignore[arg-type]


async def project(database: Database, audit_pool: Pool) -> None:
    await project_directly(audit_pool, records_of(await outbox_bodies(database)))


@pytest.fixture
async def store(pool: Pool) -> AgentEventStore:
    opened = AgentEventStore(pool)
    await opened.ensure_session("s1", "ada")
    return opened


async def test_states_from_snapshots_equal_those_from_events(
    store: AgentEventStore, database: Database, audit_pool: Pool, projected: Projected
) -> None:
    chance = random.Random(7)  # noqa: S311 - repeatable
    for start in range(0, 5200, 650):
        await store.append("s1", [some_event(number, chance) for number in range(start, start + 650)])
        if start in {1950, 3250, 4550}:
            await store.rollback("s1", chance.randrange(start))
    await store.fork("s1", 4300, "s2")
    await store.append("s2", [some_event(number, chance) for number in range(1500)])
    histories = {session: await store.replay(session) for session in ("s1", "s2")}
    await project(database, audit_pool)
    (row,) = await projected.fetch("SELECT count(*) AS snapshots FROM audit.snapshots")
    assert row["snapshots"] >= 8
    for session, events in histories.items():
        points = {0, 1, 999, 1000, 1001, 2601, 2602, 4299, 4300, 4301, len(events)}
        points |= {chance.randrange(len(events)) for _ in range(8)}
        for seq in sorted(points):
            assert await store.state_at(session, seq) == fold(session, events, seq), f"{session} at {seq}"


async def test_a_state_needs_only_the_events_behind_the_last_snapshot(
    store: AgentEventStore, database: Database, audit_pool: Pool, projected: Projected
) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable
    await store.append("s1", [some_event(number, chance) for number in range(3100)])
    expected = await store.state_at("s1", 3050)
    await project(database, audit_pool)
    await projected.execute("DELETE FROM flotilla.event_outbox")
    await projected.execute("DELETE FROM audit.session_events WHERE seq <= 3000")
    assert await store.state_at("s1", 3050) == expected


async def test_snapshotting_again_adds_nothing(
    store: AgentEventStore, database: Database, audit_pool: Pool, projected: Projected
) -> None:
    chance = random.Random(2)  # noqa: S311 - repeatable
    await store.append("s1", [some_event(number, chance) for number in range(2500)])
    await project(database, audit_pool)
    before = await projected.fetch("SELECT first_seq, seq FROM audit.snapshots ORDER BY seq")
    await write_due_snapshots(audit_pool, [("default", "s1")])
    assert await projected.fetch("SELECT first_seq, seq FROM audit.snapshots ORDER BY seq") == before
    assert [tuple(row) for row in before] == [(1, 1000), (1001, 2000)]


async def append_at(pool: Pool, session_id: str, times: Sequence[int]) -> None:
    """One message per second count, with that producer's time."""
    event = AgentStateEvent(kind="message", data={"role": "user", "content": "m"}, source="/t")
    async with tenant_transaction(pool, "default") as connection:
        for seconds in times:
            await append(connection, "default", session_id, [event], clock=partial(at, seconds))


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize("projected_events", [False, True])
async def test_time_travel_takes_the_last_event_not_later_even_when_clocks_disagree(
    store: AgentEventStore, pool: Pool, database: Database, audit_pool: Pool, *, projected_events: bool
) -> None:
    await append_at(pool, "s1", [10, 50, 20, 60])
    if projected_events:
        await project(database, audit_pool)
    found = {seconds: (await store.state_at("s1", time=at(seconds))).at_seq for seconds in (9, 10, 20, 55, 60)}
    assert found == {9: 0, 10: 1, 20: 3, 55: 3, 60: 4}


async def test_time_travel_in_a_long_session_finds_the_event_within_a_snapshot(
    store: AgentEventStore, pool: Pool, database: Database, audit_pool: Pool
) -> None:
    times = list(range(1, 2301))
    times[1500], times[1700] = 100, 5000  # one clock is slow, one is fast
    await append_at(pool, "s1", times)
    await store.rollback("s1", 2300)
    await project(database, audit_pool)
    for seconds in (0, 1, 99, 100, 101, 1600, 1700, 1702, 2299, 4999):
        expected = max((seq for seq, time in enumerate(times, start=1) if time <= seconds), default=0)
        found = await store.state_at("s1", time=at(seconds))
        assert found.at_seq == expected, seconds


async def test_time_travel_finds_events_between_the_last_snapshot_and_a_fork(
    store: AgentEventStore, pool: Pool, database: Database, audit_pool: Pool
) -> None:
    await append_at(pool, "s1", range(1, 1501))
    await store.fork("s1", 1500, "s2")
    await append_at(pool, "s2", range(1501, 2601))
    await project(database, audit_pool)
    for seconds in (999, 1000, 1001, 1300, 1500, 1501, 2600):
        expected = seconds if seconds <= 1500 else seconds + 1  # the fork is an event, too
        assert (await store.state_at("s2", time=at(seconds))).at_seq == expected, seconds
