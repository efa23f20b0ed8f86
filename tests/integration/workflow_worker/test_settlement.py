"""What a bridge writes about a stored result: a slip goes on in one or two round trips, once."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flotilla.contracts.envelope import decode_event, from_builtins
from flotilla.contracts.tasks import AgentReply, AgentTask, ReplyAddress
from flotilla.postgres import Pool, open_pool, tenant_transaction
from tests.support.postgres import Database
from tests.support.tickets import SIGNER
from workflow_worker.delegations import (
    PublishableHop,
    allow_hop_answer_again,
    insert_first_hop,
    insert_hop,
    make_next_hop_task,
    sign_task_again,
)
from workflow_worker.recent_hops import MAX_RECENT_HOP_BYTES, MAX_RECENT_HOPS, RecentHopCache
from workflow_worker.settlement import ReplyRefused, ReplySettler, SettledReply

WAITING = ReplyAddress(workflow_id="w1", workflow_run_id="r1", activity_id="1~1")
DEADLINE = datetime.now(UTC) + timedelta(minutes=5)
ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 's1', 'alice')"
STORE = "UPDATE flotilla.agent_tasks SET status = 'done', result = $2, finished_at = now() WHERE task_id = $1"
HOPS = "SELECT task_id, attempt, agent, slip, state, deadline FROM flotilla.delegations ORDER BY task_id, attempt"


@pytest.fixture
async def workers_pool(database: Database) -> AsyncIterator[Pool]:
    """Two connections of a worker's."""
    async with open_pool(database.dsn("flotilla_worker"), application="worker", max_size=2) as own:
        async with tenant_transaction(own, "acme") as connection:
            await connection.execute(ADD_SESSION)
        yield own


@pytest.fixture
def recent() -> RecentHopCache:
    """What the worker has published; nothing, as after its start."""
    return RecentHopCache()


@pytest.fixture
def settlement(workers_pool: Pool, recent: RecentHopCache) -> ReplySettler:
    return ReplySettler(workers_pool, SIGNER, recent)


def slip(task_id: str = "t1", attempt: int = 1) -> AgentTask:
    """A task for agent one, then two, then three."""
    return AgentTask(
        task_id=task_id,
        agent="one",
        slip=["two", "three"],
        tenant_id="acme",
        session_id="s1",
        input={"a": 1},
        attempt=attempt,
    )


def stored(opened: PublishableHop, result: dict[str, Any] | None = None) -> AgentReply:
    """The reply of an agent that stored its result, and says that it is this one."""
    return AgentReply(
        task_id=opened.task_id,
        agent=opened.agent,
        tenant_id="acme",
        session_id="s1",
        attempt=opened.attempt,
        status="done",
        persisted=True,
        final=False,
        result=result,
    )


async def answer(pool: Pool, opened: PublishableHop, result: str = '{"by": "agent"}') -> None:
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.execute(STORE, opened.task_id, result) == "UPDATE 1"


async def opened_and_answered(pool: Pool, task: AgentTask) -> PublishableHop:
    opened = await insert_first_hop(pool, task, WAITING, DEADLINE, SIGNER)
    assert opened is not None
    await answer(pool, opened)
    return opened


async def hops(pool: Pool) -> list[tuple[object, ...]]:
    async with tenant_transaction(pool, "acme") as connection:
        return [tuple(row) for row in await connection.fetch(HOPS)]


def published(opened: PublishableHop | None) -> AgentTask:
    assert opened is not None
    return from_builtins(decode_event(opened.sealed.body).data, AgentTask)


async def settle(
    settlement: ReplySettler, opened: PublishableHop, result: dict[str, Any] | None = None
) -> SettledReply:
    settled = await settlement.settle_reply(opened.agent, stored(opened, result), age_s=0)
    assert settled is not None
    return settled


async def statements_of(pool: Pool) -> list[str]:
    """The names of the functions that both connections call from now on."""
    called = list[str]()
    async with pool.acquire() as one, pool.acquire() as other:
        for connection in (one, other):
            connection.add_query_logger(lambda query: called.append(query.query.partition("(")[0].rpartition(".")[2]))
    return called


async def warm_up(pool: Pool, settlement: ReplySettler) -> None:
    """A new connection looks up types once."""
    await settle(settlement, await opened_and_answered(pool, slip("warm")))


async def test_a_slip_that_another_worker_published_goes_on_in_two_round_trips_and_ends_in_one(
    workers_pool: Pool, settlement: ReplySettler
) -> None:
    await warm_up(workers_pool, settlement)
    first = await opened_and_answered(workers_pool, slip())
    called = await statements_of(workers_pool)
    second = (await settle(settlement, first, {"by": "agent"})).following
    assert called == ["settle_stored", "forward_slip"]
    assert second is not None
    await answer(workers_pool, second)
    third = (await settle(settlement, second)).following
    assert third is not None
    await answer(workers_pool, third)
    called.clear()
    last = await settle(settlement, third)
    assert called == ["settle_stored"]
    assert (last.following, last.answer and last.answer.result) == (None, '{"by": "agent"}')


async def test_a_slip_that_this_worker_published_goes_on_in_one_round_trip(
    workers_pool: Pool, settlement: ReplySettler, recent: RecentHopCache
) -> None:
    await warm_up(workers_pool, settlement)
    first = await opened_and_answered(workers_pool, slip())
    recent.remember_hop(published(first), first.sealed.body)
    called = await statements_of(workers_pool)
    settled = await settle(settlement, first, {"by": "agent"})
    assert called == ["forward_answered"]
    assert published(settled.following).input == {"by": "agent", "a": 1}
    assert (settled.delegated.waiting_activity, settled.delegated.is_unanswered) == (WAITING, True)
    assert settled.answer is not None
    assert (settled.answer.status, settled.answer.result) == ("done", '{"by": "agent"}')
    assert await hops(workers_pool) == [
        ("t1", 1, "one", ["two", "three"], "done", DEADLINE),
        ("t1~1", 1, "two", ["three"], "open", DEADLINE),
        *[row for row in await hops(workers_pool) if str(row[0]).startswith("warm")],
    ]
    again = await settle(settlement, first, {"by": "agent"})  # the reply comes again
    assert again.following is not None
    assert again.following.sealed == (settled.following and settled.following.sealed)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ('{"by": "agent"}', {"by": "liar"}),
        ('{"by": "agent"}', {"by": "agent", "more": 1}),
        ('{"by": "agent"}', {}),
        ('{"by": "agent"}', {"by": "\x00"}),
        ('{"by": 1}', {"by": 1.0}),
        ('{"by": 1}', {"by": "1"}),
        ('{"by": null}', {"by": False}),
    ],
)
async def test_the_next_agent_gets_what_is_stored_whatever_the_reply_says(
    workers_pool: Pool, settlement: ReplySettler, recent: RecentHopCache, kept: str, said: dict[str, Any]
) -> None:
    first = await insert_first_hop(workers_pool, slip(), WAITING, DEADLINE, SIGNER)
    assert first is not None
    await answer(workers_pool, first, kept)
    recent.remember_hop(published(first), first.sealed.body)
    following = published((await settle(settlement, first, said)).following)
    assert json.dumps(following.input["by"]) == json.dumps(json.loads(kept)["by"])
    assert "more" not in following.input


@pytest.mark.parametrize("claim", [{"agent": "two"}, {"session_id": "s2"}, {"attempt": 2}, {"tenant_id": "other"}])
async def test_a_reply_about_a_hop_that_is_known_here_claims_nothing_else_either(
    workers_pool: Pool, settlement: ReplySettler, recent: RecentHopCache, claim: dict[str, object]
) -> None:
    first = await opened_and_answered(workers_pool, slip())
    recent.remember_hop(published(first), first.sealed.body)
    whole = stored(first, {"by": "agent"})
    reply = AgentReply(**{**{name: getattr(whole, name) for name in AgentReply.__slots__}, **claim})
    with pytest.raises(ReplyRefused):
        await settlement.settle_reply(reply.agent, reply, age_s=1_000)
    assert [row[4] for row in await hops(workers_pool)] == ["open"]


async def test_a_result_that_is_not_stored_yet_is_not_forwarded_because_the_reply_has_it(
    workers_pool: Pool, settlement: ReplySettler, recent: RecentHopCache
) -> None:
    first = await insert_first_hop(workers_pool, slip(), WAITING, DEADLINE, SIGNER)
    assert first is not None
    recent.remember_hop(published(first), first.sealed.body)
    with pytest.raises(ReplyRefused, match="none is"):
        await settlement.settle_reply("one", stored(first, {"by": "agent"}), age_s=0)
    assert [row[4] for row in await hops(workers_pool)] == ["open"]


async def test_a_hop_that_was_published_again_with_more_time_goes_on_with_that_time(
    workers_pool: Pool, settlement: ReplySettler, recent: RecentHopCache
) -> None:
    """As when an operator redrives a dead letter: the worker that published it first knows the old deadline."""
    first = await insert_first_hop(workers_pool, slip(), WAITING, DEADLINE, SIGNER)
    assert first is not None
    recent.remember_hop(published(first), first.sealed.body)
    later = DEADLINE + timedelta(minutes=30)
    task, sealed = sign_task_again(published(first), later, SIGNER)
    async with tenant_transaction(workers_pool, "acme") as connection:
        assert await allow_hop_answer_again(connection, task, sealed)
    await answer(workers_pool, first)
    following = published((await settle(settlement, first, {"by": "agent"})).following)
    assert following.deadline == later.isoformat()


def note(recent: RecentHopCache, task: AgentTask, size_bytes: int) -> None:
    issued, sealed = sign_task_again(task, DEADLINE, SIGNER)
    recent.remember_hop(issued, sealed.body.ljust(size_bytes))


def test_a_worker_remembers_no_more_than_it_has_room_for() -> None:
    recent = RecentHopCache()
    for number in range(MAX_RECENT_HOPS + 1):
        note(recent, slip(f"t{number}"), MAX_RECENT_HOP_BYTES)
    note(recent, slip("large"), MAX_RECENT_HOP_BYTES + 1)
    note(recent, replace(slip("last"), slip=[]), 1)
    kept = [
        task_id
        for task_id in ("t0", "t1", f"t{MAX_RECENT_HOPS}", "large", "last")
        if recent.pop_hop("acme", task_id, 1)
    ]
    assert kept == ["t1", f"t{MAX_RECENT_HOPS}"]


async def test_the_next_hop_has_what_the_one_before_has_and_a_secret_of_its_own(
    workers_pool: Pool, settlement: ReplySettler
) -> None:
    first = await opened_and_answered(workers_pool, slip())
    following = (await settle(settlement, first)).following
    before, after = published(first), published(following)
    assert (after.task_id, after.agent, after.slip) == ("t1~1", "two", ["three"])
    assert after.input == {"by": "agent", "a": 1}
    assert (after.reply_to, after.deadline) == (WAITING, before.deadline)
    assert after.secret not in {None, before.secret}
    assert await hops(workers_pool) == [
        ("t1", 1, "one", ["two", "three"], "done", DEADLINE),
        ("t1~1", 1, "two", ["three"], "open", DEADLINE),
    ]


async def test_one_reply_at_two_bridges_opens_one_hop(workers_pool: Pool, settlement: ReplySettler) -> None:
    first = await opened_and_answered(workers_pool, slip())
    both = await asyncio.gather(settle(settlement, first), settle(settlement, first))
    bodies = {settled.following and settled.following.sealed for settled in both}
    assert len(bodies) == 1
    assert [row[4] for row in await hops(workers_pool)] == ["done", "open"]


async def test_a_hop_that_another_process_opened_is_the_one_that_is_published(
    workers_pool: Pool, settlement: ReplySettler
) -> None:
    first = await opened_and_answered(workers_pool, slip())
    async with tenant_transaction(workers_pool, "acme") as connection:
        there = await insert_hop(connection, make_next_hop_task(slip(), '{"by": "agent"}'), WAITING, DEADLINE, SIGNER)
    settled = await settle(settlement, first)
    assert settled.following is not None
    assert settled.following.sealed == there.sealed
    assert settled.delegated.is_unanswered  # so that its end is announced
    assert [row[4] for row in await hops(workers_pool)] == ["done", "open"]


async def test_a_later_try_takes_the_place_of_open_hops_of_earlier_ones(
    workers_pool: Pool, settlement: ReplySettler
) -> None:
    first = await opened_and_answered(workers_pool, slip())
    await settle(settlement, first)
    async with tenant_transaction(workers_pool, "acme") as connection:
        await connection.execute("UPDATE flotilla.agent_tasks SET status = 'queued' WHERE task_id = 't1'")
        again = await insert_hop(connection, slip(attempt=2), WAITING, DEADLINE, SIGNER)
        # A hop of the first try that was opened while the second one began.
        await connection.execute("UPDATE flotilla.delegations SET state = 'open' WHERE task_id = 't1~1'")
    await answer(workers_pool, again)
    await settle(settlement, again)
    states = {(row[0], row[1]): row[4] for row in await hops(workers_pool)}
    assert states == {("t1", 1): "done", ("t1", 2): "done", ("t1~1", 1): "superseded", ("t1~1", 2): "open"}


@pytest.mark.parametrize("claim", [{"agent": "two"}, {"session_id": "s2"}, {"attempt": 2}, {"tenant_id": "other"}])
async def test_a_reply_that_claims_anything_else_forwards_nothing(
    workers_pool: Pool, settlement: ReplySettler, claim: dict[str, object]
) -> None:
    first = await opened_and_answered(workers_pool, slip())
    reply = AgentReply(**{**{name: getattr(stored(first), name) for name in AgentReply.__slots__}, **claim})
    with pytest.raises(ReplyRefused):
        await settlement.settle_reply(reply.agent, reply, age_s=1_000)
    assert [row[4] for row in await hops(workers_pool)] == ["open"]


async def test_a_result_that_is_not_stored_forwards_nothing(workers_pool: Pool, settlement: ReplySettler) -> None:
    first = await insert_first_hop(workers_pool, slip(), WAITING, DEADLINE, SIGNER)
    assert first is not None
    with pytest.raises(ReplyRefused, match="none is"):
        await settlement.settle_reply("one", stored(first), age_s=0)
    assert [row[4] for row in await hops(workers_pool)] == ["open"]
