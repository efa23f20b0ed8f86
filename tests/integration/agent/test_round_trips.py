"""What a task costs the database, and that the short way keeps what the long one keeps."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from flotilla.agent.effects import TaskAnswerStore, TaskNoLongerOpen
from flotilla.agent.execution import FunctionOutcome
from flotilla.contracts.errors import NotFound
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.contracts.tasks import AgentTask
from flotilla.postgres import Pool, open_pool
from tests.support.agents import delegate, rows, session_events, task
from tests.support.postgres import agent_dsn

pytestmark = pytest.mark.usefixtures("session")

FINISH_BY_A_GUESS = """
SELECT flotilla.finish_task('default', $1, 1, 'guessed', 'done', '1-0', '{}', NULL, 1, '{}', '{}', '{}', '{}', '{}',
    NULL)
"""


@pytest.fixture
async def agents_pool(pool: Pool) -> AsyncIterator[Pool]:
    """One connection of an agent's."""
    async with open_pool(await agent_dsn(pool, "adder"), application="adder", max_size=1) as own:
        yield own


def outcome(wanted: AgentTask, **fields: Any) -> FunctionOutcome:
    """A result with one event."""
    event = AgentStateEvent(
        kind="state_change",
        data={"change": "added", "details": {}},
        source="/agents/adder",
        run_id=wanted.run_id,
        task_id=wanted.task_id,
    )
    return FunctionOutcome(
        **{"status": "done", "duration_ms": 1.0, "result": {"total": 3}, "events": [event], **fields}
    )


async def test_a_task_takes_two_round_trips(pool: Pool, agents_pool: Pool) -> None:
    effects, sent = TaskAnswerStore(agents_pool, "adder"), list[str]()
    await delegate(pool, task("t1"), task("t2"))
    await effects.commit_outcome(task("t1"), "1-0", outcome(task("t1")))  # a new connection looks up types once
    async with agents_pool.acquire() as connection:
        connection.add_query_logger(lambda query: sent.append(query.query))
    assert (await effects.load_received_task(task("t2"))).answer is None
    await effects.commit_outcome(task("t2"), "1-0", outcome(task("t2")))
    assert [statement.partition("(")[0].rpartition(".")[2] for statement in sent] == ["take_task", "finish_task"]
    assert [event["sequence"] for event in await session_events(pool)] == [1, 2]
    (row,) = await rows(pool, "SELECT status, result FROM flotilla.agent_tasks WHERE task_id = 't2'")
    assert (row["status"], json.loads(row["result"])) == ("done", {"total": 3})
    actions = await rows(pool, "SELECT action_type, agent_id FROM flotilla.agent_actions WHERE task_id = 't2'")
    assert {action["action_type"] for action in actions} == {"state_change", "task_done"}
    assert {action["agent_id"] for action in actions} == {"adder"}


async def test_the_second_answer_is_the_first_one_and_writes_nothing(pool: Pool, agents_pool: Pool) -> None:
    wanted, effects = task(), TaskAnswerStore(agents_pool, "adder")
    await delegate(pool, wanted)
    await effects.commit_outcome(wanted, "1-0", outcome(wanted))
    again = await effects.commit_outcome(wanted, "2-0", outcome(wanted, result={"total": 4}))
    assert again.result == {"total": 3}
    assert len(await session_events(pool)) == 1
    assert len(await rows(pool, "SELECT FROM flotilla.agent_actions")) == 2


async def test_a_failed_append_takes_the_answer_with_it(pool: Pool, agents_pool: Pool, database: Any) -> None:
    wanted, effects = task(), TaskAnswerStore(agents_pool, "adder")
    await delegate(pool, wanted)
    owner = await asyncpg.connect(database.superuser_dsn)
    await owner.execute("DELETE FROM flotilla.sessions")
    await owner.close()
    with pytest.raises(NotFound, match="no session s1"):
        await effects.commit_outcome(wanted, "1-0", outcome(wanted))
    assert await rows(pool, "SELECT status FROM flotilla.agent_tasks") == [{"status": "queued"}]
    assert await rows(pool, "SELECT FROM flotilla.agent_actions") == []


async def test_an_agent_that_lost_its_ticket_answers_nothing(pool: Pool, agents_pool: Pool) -> None:
    wanted, effects = task(), TaskAnswerStore(agents_pool, "adder")
    await delegate(pool, wanted)
    stolen = task(secret="guessed")
    with pytest.raises(TaskNoLongerOpen):
        await effects.load_received_task(stolen)
    with pytest.raises(TaskNoLongerOpen):
        await effects.commit_outcome(stolen, "1-0", outcome(stolen))
    assert await rows(pool, "SELECT status FROM flotilla.agent_tasks") == [{"status": "queued"}]
    assert await session_events(pool) == []


async def test_an_agent_reads_the_one_result_that_its_ticket_names(pool: Pool, agents_pool: Pool) -> None:
    effects = TaskAnswerStore(agents_pool, "adder")
    before, other = task("t0"), task("other")
    mine = task("t1", input_from="t0")
    await delegate(pool, before, other, mine)
    for done in (before, other):
        await effects.commit_outcome(done, "1-0", outcome(done, result={"of": done.task_id}))
    assert (await effects.load_received_task(mine)).input == {"of": "t0"}
    assert (await effects.load_received_task(task("t1", input_from="other"))).input is None


async def test_whether_another_task_has_calls_to_record_is_not_shown(pool: Pool, agents_pool: Pool) -> None:
    victim = task("victim")
    await delegate(pool, victim)
    await rows(
        pool,
        "INSERT INTO flotilla.tool_calls (tenant_id, task_id, tool, args_hash, occurrence, start_no, call_id,"
        " session_id, agent, called, expires_at)"
        " VALUES ('default', 'victim', 'add', '', 0, 1, 'c', 's1', 'adder', '{}', now())",
    )
    for guess in ("victim", "nothing"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await agents_pool.fetchval(FINISH_BY_A_GUESS, guess)
