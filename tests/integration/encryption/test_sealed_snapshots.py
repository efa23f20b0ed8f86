"""Snapshots of encrypted sessions: as fast and as right as those of clear ones, unreadable without the key."""

import random
from pathlib import Path

import pytest

from flotilla.contracts.errors import RetryLater
from flotilla.eventstore import AgentEventStore, fold
from flotilla.eventstore.log import SessionLog
from flotilla.postgres import Pool
from tests.integration.eventstore.test_snapshots import project, some_event
from tests.support.audit import Projected
from tests.support.encryption import encrypting_pool, rows_with
from tests.support.postgres import Database

KEPT = "SELECT session_id, first_seq, seq FROM flotilla.sealed_snapshots ORDER BY session_id, seq"


@pytest.fixture
async def store(sealing: Pool) -> AgentEventStore:
    opened = AgentEventStore(sealing, sealed_snapshots=True)
    await opened.ensure_session("s1", "ada")
    return opened


async def a_long_session(store: AgentEventStore, database: Database, audit_pool: Pool) -> None:
    """2,600 events with a rollback, and a fork of 1,500 more."""
    chance = random.Random(7)  # noqa: S311 - repeatable
    for start in range(0, 2600, 650):
        await store.append("s1", [some_event(number, chance) for number in range(start, start + 650)])
        if start == 650:
            await store.rollback("s1", 300)
    await store.fork("s1", 2300, "s2")
    await store.append("s2", [some_event(number, chance) for number in range(1500)])
    await project(database, audit_pool)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """What is read of logs from now on."""
    seen: list[tuple[int, int | None]] = []
    read = SessionLog._recorded

    async def watched(self: SessionLog, session_id: str, from_seq: int, to_seq: int | None) -> object:
        seen.append((from_seq, to_seq))
        return await read(self, session_id, from_seq, to_seq)

    monkeypatch.setattr(SessionLog, "_recorded", watched)
    return seen


async def test_states_from_sealed_snapshots_equal_those_from_events(
    store: AgentEventStore,
    database: Database,
    audit_pool: Pool,
    projected: Projected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await a_long_session(store, database, audit_pool)
    assert await projected.fetch("SELECT FROM audit.snapshots") == []
    histories = {session: await store.replay(session) for session in ("s1", "s2")}
    for session in histories:
        await store.state_at(session)
    kept = [tuple(row) for row in await projected.fetch(KEPT)]
    assert kept == [("s1", 1, 1000), ("s1", 1001, 1300), ("s1", 1302, 2000), ("s2", 2301, 3300)]
    seen = reads(monkeypatch)
    for session, events in histories.items():
        for seq in (0, 1, 999, 1000, 1001, 1300, 1301, 1302, 2000, 2299, 2300, 2301, 3300, len(events)):
            if seq <= len(events):
                assert await store.state_at(session, seq) == fold(session, events, seq), f"{session} at {seq}"
    del seen[:]
    await store.state_at("s2")
    assert seen != []
    assert sum((to or 0) - first + 1 for first, to in seen) <= 1500
    assert [tuple(row) for row in await projected.fetch(KEPT)] == kept


async def test_what_they_hold_is_unreadable_and_gone_with_the_key(
    store: AgentEventStore, database: Database, audit_pool: Pool, projected: Projected, key_file: Path
) -> None:
    await a_long_session(store, database, audit_pool)
    await store.state_at("s1")
    assert await rows_with(database, "message 1") == []
    await projected.execute("UPDATE flotilla.person_keys SET wrapped_key = NULL, erased_at = now()")
    async with encrypting_pool(database, key_file) as pool:
        state = await AgentEventStore(pool, sealed_snapshots=True).state_at("s1")
    assert {message.content for message in state.messages} == {"[erased]"}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE flotilla.sealed_snapshots SET body = set_byte(body, 40, get_byte(body, 40) # 1)",
        "UPDATE flotilla.sealed_snapshots SET seq = 998 WHERE seq = 1000",
        "UPDATE flotilla.sealed_snapshots SET hash = sha256('another history')",
    ],
)
async def test_one_that_was_changed_or_is_of_another_history_is_not_used(
    store: AgentEventStore, database: Database, audit_pool: Pool, projected: Projected, change: str
) -> None:
    await a_long_session(store, database, audit_pool)
    expected = await store.state_at("s1")
    await projected.execute(change)
    for _ in range(6):
        try:
            assert await store.state_at("s1") == expected
            break
        except RetryLater:
            continue
    else:
        pytest.fail("what can't be read stays in the way")


async def test_none_is_kept_of_a_history_that_was_decided_otherwise_while_it_was_folded(
    store: AgentEventStore, database: Database, audit_pool: Pool, projected: Projected
) -> None:
    await a_long_session(store, database, audit_pool)
    await projected.execute(
        "UPDATE audit.session_events SET event_id = gen_random_uuid() WHERE session_id = 's1' AND seq = 1000"
    )
    await store.state_at("s1")
    assert [tuple(row) for row in await projected.fetch(KEPT)] == [("s1", 1001, 1300), ("s1", 1302, 2000)]
