"""The event store on PostgreSQL alone: no relay, no Kafka, no audit consumer."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from flotilla.contracts.envelope import decode_event
from flotilla.contracts.errors import Conflict, Invalid, NotFound, RunInProgress, SequenceConflict
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore import AgentEventStore, fold
from flotilla.eventstore.turns import load_earlier_turns
from flotilla.postgres import Pool, tenant_transaction
from tests.support.postgres import Database
from tests.support.waiting import eventually

ADD_RUN = """
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, request, status)
VALUES ('default', $1, $2, 'ada', $1, 'q', '{}', $3)
"""
ADD_TURN = """
INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources,
    message_seq)
VALUES ('default', $2, 'ada', $1, $2, 'q' || $2, 'a' || $2, '[]', $3)
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'test' AND wait_event_type = 'Lock'
"""


def message(content: str) -> AgentStateEvent:
    return AgentStateEvent(kind="message", data={"role": "user", "content": content}, source="/test")


def variable(name: str, value: int) -> AgentStateEvent:
    data: JsonObject = {"change": "counted", "set": {name: value}, "status": f"at {value}"}
    return AgentStateEvent(kind="state_change", data=data, source="/test")


@pytest.fixture
async def store(pool: Pool) -> AgentEventStore:
    opened = AgentEventStore(pool)
    await opened.ensure_session("s1", "ada")
    return opened


async def contents(store: AgentEventStore, session_id: str, seq: int | None = None) -> list[str]:
    return [said.content for said in (await store.state_at(session_id, seq)).messages]


async def test_what_was_appended_is_replayed_in_order_without_any_service(store: AgentEventStore) -> None:
    for number in range(3):
        await store.append("s1", [message(f"{number}a"), message(f"{number}b")])
    events = await store.replay("s1")
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.data["content"] for event in events] == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert [event.sequence for event in await store.replay("s1", 2, 4)] == [2, 3, 4]
    assert [event.sequence for event in await store.replay("s1", 7)] == []


async def test_a_page_holds_the_bytes_that_were_appended(store: AgentEventStore, pool: Pool) -> None:
    await store.append("s1", [message("grüße 🚀")])
    async with tenant_transaction(pool, "default") as connection:
        stored = await connection.fetchval("SELECT body FROM flotilla.event_outbox")
    page = await store.read_page("s1")
    assert (page.bodies, page.head_seq, page.next_seq) == ([stored], 1, 2)


async def test_a_session_longer_than_a_page_is_read_whole(store: AgentEventStore) -> None:
    await store.append("s1", [message(str(number)) for number in range(2500)])
    events = [event async for event in store.stream("s1")]
    assert [event.sequence for event in events] == list(range(1, 2501))
    assert len((await store.read_page("s1", 2001)).bodies) == 500


async def test_append_with_an_outdated_expected_seq_changes_nothing(store: AgentEventStore) -> None:
    await store.append("s1", [message("one")], expected_seq=0)
    with pytest.raises(SequenceConflict, match="is at seq 1, not 0"):
        await store.append("s1", [message("two")], expected_seq=0)
    assert len(await store.replay("s1")) == 1


async def test_data_that_does_not_fit_its_kind_is_refused_at_append(store: AgentEventStore) -> None:
    with pytest.raises(Invalid, match="data of a message"):
        await store.append("s1", [AgentStateEvent(kind="message", data={"text": "?"}, source="/test")])
    assert await store.replay("s1") == []


async def test_another_tenant_sees_no_session_no_events_no_state(store: AgentEventStore, pool: Pool) -> None:
    await store.append("s1", [message("secret")])
    other = AgentEventStore(pool, "globex")
    for attempt in (other.replay("s1"), other.state_at("s1"), other.fork("s1", 1), other.rollback("s1", 0)):
        with pytest.raises(NotFound):
            await attempt


async def test_state_at_each_point_is_the_fold_of_the_events_up_to_it(store: AgentEventStore) -> None:
    await store.append("s1", [message("a"), variable("x", 1), message("b"), variable("x", 2)])
    await store.rollback("s1", 2)
    await store.append("s1", [message("c")])
    events = await store.replay("s1")
    for seq in range(7):
        assert await store.state_at("s1", seq) == fold("s1", events, seq)
    assert await contents(store, "s1") == ["a", "c"]
    assert (await store.state_at("s1")).variables == {"x": 1}


async def test_a_rollback_can_go_back_behind_another_rollback(store: AgentEventStore) -> None:
    await store.append("s1", [message("a"), message("b"), message("c")])
    await store.rollback("s1", 1)  # 4
    await store.append("s1", [message("d")])  # 5
    assert await contents(store, "s1") == ["a", "d"]
    await store.rollback("s1", 3)  # 6: before the first rollback
    assert await contents(store, "s1") == ["a", "b", "c"]
    await store.rollback("s1", 5)  # 7
    assert await contents(store, "s1") == ["a", "d"]
    await store.rollback("s1", 4)  # 8: the state after the first rollback
    assert await contents(store, "s1") == ["a"]
    assert len(await store.replay("s1")) == 8


async def test_rollback_is_refused_while_a_run_is_active_and_fork_is_not(store: AgentEventStore, pool: Pool) -> None:
    await store.append("s1", [message("a"), message("b")])
    async with tenant_transaction(pool, "default") as connection:
        await connection.execute(ADD_RUN, "r1", "s1", "running")
    with pytest.raises(RunInProgress, match="r1"):
        await store.rollback("s1", 1)
    assert (await store.fork("s1", 1)).head_seq == 2
    async with tenant_transaction(pool, "default") as connection:
        await connection.execute("UPDATE flotilla.runs SET status = 'success'")
    assert (await store.rollback("s1", 1)).last_seq == 3


async def test_a_rollback_waits_for_a_run_that_is_being_started_and_then_is_refused(
    store: AgentEventStore, database: Database
) -> None:
    await store.append("s1", [message("a")])
    starting = await asyncpg.connect(database.superuser_dsn)
    try:
        transaction = starting.transaction()
        await transaction.start()
        await starting.execute(ADD_RUN, "r1", "s1", "pending")
        rollback = asyncio.create_task(store.rollback("s1", 0))
        await eventually(lambda: waits_for_a_lock(database))
        await transaction.commit()
        with pytest.raises(RunInProgress, match="r1"):
            await rollback
    finally:
        await starting.close()


async def waits_for_a_lock(database: Database) -> bool:
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        return bool(await connection.fetchval(WAITING))
    finally:
        await connection.close()


@pytest.mark.parametrize("to_seq", [-1, 3])
async def test_a_point_outside_the_log_is_refused(store: AgentEventStore, to_seq: int) -> None:
    await store.append("s1", [message("a"), message("b")])
    for attempt in (store.rollback("s1", to_seq), store.fork("s1", to_seq), store.state_at("s1", to_seq)):
        with pytest.raises(Invalid):
            await attempt


async def test_a_fork_has_its_parents_prefix_as_history_and_leaves_the_parent_alone(store: AgentEventStore) -> None:
    await store.append("s1", [message("a"), message("b"), message("c")])
    before = await store.replay("s1")
    fork = await store.fork("s1", 2, "s2")
    assert (fork.parent_session_id, fork.forked_at_seq, fork.head_seq, fork.user_id) == ("s1", 2, 3, "ada")
    await store.append("s2", [message("other")])
    events = await store.replay("s2")
    assert [(event.subject, event.sequence) for event in events] == [("s1", 1), ("s1", 2), ("s2", 3), ("s2", 4)]
    assert events[2].data["change"] == "forked"
    assert await contents(store, "s2") == ["a", "b", "other"]
    assert await store.replay("s1") == before


async def test_a_fork_of_a_fork_below_its_own_fork_point_reaches_the_grandparent(store: AgentEventStore) -> None:
    await store.append("s1", [message("a"), message("b"), message("c")])
    await store.fork("s1", 3, "s2")
    await store.append("s2", [message("d")])
    await store.fork("s2", 2, "s3")
    await store.fork("s2", 5, "s4")
    assert await contents(store, "s3") == ["a", "b"]
    assert await contents(store, "s4") == ["a", "b", "c", "d"]
    assert [segment.session_id for segment in await store.lineage("s3")] == ["s3", "s2", "s1"]
    assert [event.sequence for event in await store.replay("s4")] == [1, 2, 3, 4, 5, 6]


async def test_a_fork_rolls_back_into_its_parents_prefix(store: AgentEventStore) -> None:
    await store.append("s1", [message("a"), message("b"), message("c")])
    await store.fork("s1", 3, "s2")
    await store.rollback("s2", 1)
    assert await contents(store, "s2") == ["a"]
    assert await contents(store, "s1") == ["a", "b", "c"]


async def test_a_fork_under_a_taken_id_is_a_conflict(store: AgentEventStore) -> None:
    with pytest.raises(Conflict, match="choose another id"):
        await store.fork("s1", 0, "s1")


async def test_the_state_at_a_time_is_that_of_the_last_event_not_later(store: AgentEventStore) -> None:
    await store.append("s1", [message("a")])
    await store.append("s1", [message("b")])
    first, second = await store.replay("s1")
    assert (await store.state_at("s1", time=first.time - timedelta(microseconds=1))).at_seq == 0
    assert (await store.state_at("s1", time=first.time)).at_seq == 1
    assert (await store.state_at("s1", time=second.time)).at_seq == 2
    assert (await store.state_at("s1", time=datetime.now(UTC) + timedelta(days=1))).at_seq == 2


async def test_diff_says_what_came_what_went_and_what_changed(store: AgentEventStore) -> None:
    await store.append("s1", [message("a"), variable("x", 1), message("b"), variable("y", 2)])
    await store.rollback("s1", 2)
    await store.append("s1", [message("c"), variable("x", 5)])
    forward = await store.diff("s1", 1, 4)
    assert [said.content for said in forward.messages_added] == ["b"]
    assert {name: (change.before, change.after) for name, change in forward.variables.items()} == {
        "x": (None, 1),
        "y": (None, 2),
    }
    across = await store.diff("s1", 4, 7)
    assert [said.content for said in across.messages_removed] == ["b"]
    assert [said.content for said in across.messages_added] == ["c"]
    assert {name: (change.before, change.after) for name, change in across.variables.items()} == {
        "x": (1, 5),
        "y": (2, None),
    }
    assert across.status is not None
    assert (across.status.before, across.status.after) == ("at 2", "at 5")
    same = await store.diff("s1", 3, 3)
    assert not same.messages_added
    assert not same.variables
    assert same.status is None


async def test_ensuring_a_session_twice_keeps_the_first(store: AgentEventStore) -> None:
    again = await store.ensure_session("s1", "bob", {"topic": "x"})
    assert (again.user_id, again.metadata) == ("ada", {})
    with pytest.raises(Invalid, match="session id"):
        await store.ensure_session("../s1", "ada")


async def test_events_are_decoded_from_the_bytes_of_a_page(store: AgentEventStore) -> None:
    await store.append("s1", [message("a")])
    page = await store.read_page("s1")
    assert [decode_event(body) for body in page.bodies] == await store.replay("s1")


async def test_the_turns_that_a_prompt_sees_follow_forks_and_rollbacks(store: AgentEventStore, pool: Pool) -> None:
    for number in (1, 2):
        appended = await store.append("s1", [message(f"q{number}"), message(f"a{number}")])
        async with tenant_transaction(pool, "default") as connection:
            await connection.execute(ADD_TURN, "s1", str(number), appended.last_seq)
    await store.fork("s1", 4, "s2")
    assert [turn.answer for turn in await load_earlier_turns(pool, "default", "s2")] == ["a1", "a2"]
    await store.rollback("s2", 2)
    assert [turn.answer for turn in await load_earlier_turns(pool, "default", "s2")] == ["a1"]
    assert [turn.answer for turn in await load_earlier_turns(pool, "default", "s1")] == ["a1", "a2"]
