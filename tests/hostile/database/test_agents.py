"""What an agent's password for PostgreSQL is worth to a thief who holds the ticket of one open task, and names tenants,
tasks and secrets as they like."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flotilla.contracts.ids import utc_now
from flotilla.contracts.names import token_budget_name
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import (
    ChatMessage,
    Completion,
    CompletionRequest,
    StoredCallKey,
    StoredModelCalls,
    TokenBudgetSpent,
    TokenLimits,
)
from flotilla.postgres import Pool, TaskProof, acting_for_task, tenant_transaction
from flotilla.testing import FakeModel
from tests.support.agents import delegate, task
from tests.support.postgres import Database
from tests.support.thieves import HELD, TENANT, VICTIM, acting, refused, seen


@pytest.mark.parametrize(
    "held",
    [
        None,
        TaskProof(task_id="t1", attempt=1, secret="guessed"),
        TaskProof(task_id="t1", attempt=2, secret=HELD.secret),
        TaskProof(task_id="t9", attempt=1, secret=HELD.secret),
        TaskProof(task_id="", attempt=1, secret=""),
    ],
    ids=["no ticket", "guessed secret", "another try", "another task", "empty"],
)
@pytest.mark.parametrize("tenant", [TENANT, VICTIM])
async def test_an_agent_without_a_ticket_sees_nothing_of_any_tenant(
    agent: Pool, tenant: str, held: TaskProof | None
) -> None:
    async with acting(agent, tenant, held) as connection:
        assert await seen(connection) == {}
        assert await refused(connection, "SELECT flotilla.append_task_events('{}', '{}', '{}', NULL)")


async def test_an_agent_with_a_ticket_sees_its_session_its_task_and_its_tenants_documents(agent: Pool) -> None:
    async with acting(agent) as connection:
        found = await seen(connection)
        assert {name: found[name] for name in ("sessions", "interactions", "agent_tasks", "documents")} == {
            "sessions": 1,
            "interactions": 1,
            "agent_tasks": 1,
            "documents": 1,
        }
        assert set(found) <= {"sessions", "interactions", "agent_tasks", "documents", "passages", "postings",
                              "indexed_documents", "knowledge_bases"}  # fmt: skip
        assert await connection.fetchval("SELECT session_id FROM flotilla.sessions") == "s1"
        for tenant in (VICTIM, "", "default'; --"):
            await connection.execute("SELECT set_config('flotilla.tenant_id', $1, true)", tenant)
            assert await seen(connection) == {}


async def test_an_agent_sees_the_answer_that_its_input_refers_to_and_no_other(agent: Pool, pool: Pool) -> None:
    await delegate(
        pool,
        task("t9~1", session_id="s2", run_id="r2", secret="of the second hop", input_from="t9"),
        task("t9~2", session_id="s2", run_id="r2", secret="of the third hop"),
    )
    for task_id, secret, seen_tasks in (
        ("t9~1", "of the second hop", ["t9", "t9~1"]),
        ("t9~2", "of the third hop", ["t9~2"]),
    ):
        async with acting(agent, held=TaskProof(task_id=task_id, attempt=1, secret=secret)) as connection:
            rows = await connection.fetch("SELECT task_id FROM flotilla.agent_tasks ORDER BY 1")
            assert [row["task_id"] for row in rows] == seen_tasks


async def test_an_agent_of_a_former_workers_task_sees_the_answers_of_its_run(agent: Pool, pool: Pool) -> None:
    await delegate(pool, task("t8", session_id="s2", run_id="r2", secret="of t8"))
    async with tenant_transaction(pool, TENANT) as connection:
        await connection.execute("UPDATE flotilla.delegations SET input_from = DEFAULT WHERE task_id = 't8'")
    async with acting(agent, held=TaskProof(task_id="t8", attempt=1, secret="of t8")) as connection:
        rows = await connection.fetch("SELECT task_id FROM flotilla.agent_tasks ORDER BY 1")
        assert [row["task_id"] for row in rows] == ["t8", "t9"]


@pytest.mark.parametrize(
    ("state", "more"),
    [
        ("done", ""),
        ("failed", ""),
        ("cancelled", ""),
        ("dead_lettered", ""),
        ("superseded", ""),
        ("open", ", deadline = now() - interval '11 minutes'"),
    ],
)
async def test_the_secret_of_a_finished_task_is_worth_its_own_answer_only(
    agent: Pool, pool: Pool, state: str, more: str
) -> None:
    async with tenant_transaction(pool, TENANT) as connection:
        await connection.execute(f"UPDATE flotilla.delegations SET state = $1{more} WHERE task_id = 't1'", state)
    async with acting(agent) as connection:
        assert await seen(connection) == {"agent_tasks": 1}
        assert await refused(
            connection,
            "INSERT INTO flotilla.llm_claims VALUES ('default', 't1', 0, 'x', gen_random_uuid(), now())",
        )
        if state != "open":
            assert await refused(connection, "SELECT flotilla.append_task_events('{}', '{}', '{}', NULL)")
            assert await connection.execute("UPDATE flotilla.agent_tasks SET status = 'done'") == "UPDATE 0"


async def test_a_try_counts_while_a_later_one_is_open_and_not_after(agent: Pool, pool: Pool) -> None:
    await delegate(pool, task(attempt=2, secret="of the second try"))
    async with tenant_transaction(pool, TENANT) as connection:
        await connection.execute(
            "UPDATE flotilla.delegations SET state = 'superseded' WHERE task_id = 't1' AND attempt = 1"
        )
    async with acting(agent) as connection:
        assert "sessions" in await seen(connection)
    async with tenant_transaction(pool, TENANT) as connection:
        await connection.execute("UPDATE flotilla.delegations SET state = 'done' WHERE task_id = 't1' AND attempt = 2")
    async with acting(agent) as connection:
        assert "sessions" not in await seen(connection)


ANSWER = (
    "INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, status, attempt) "
    "VALUES ($1, $2, $3, $4, 'done', $5) ON CONFLICT (tenant_id, task_id) DO UPDATE SET status = 'done'"
)


@pytest.mark.parametrize(
    "row",
    [
        (VICTIM, "t1", "adder", "s1", 1),
        (TENANT, "t9", "adder", "s1", 1),
        (TENANT, "t1~1", "adder", "s1", 1),
        (TENANT, "t1", "research", "s1", 1),
        (TENANT, "t1", "adder", "s2", 1),
        (TENANT, "t1", "adder", "s1", 99),
    ],
    ids=["tenant", "task", "hop", "agent", "session", "try"],
)
async def test_an_agent_answers_its_own_task_only(agent: Pool, row: tuple[object, ...]) -> None:
    async with acting(agent) as connection:
        assert not await refused(connection, ANSWER, TENANT, "t1", "adder", "s1", 1)
        assert await refused(connection, ANSWER, *row)


Forge = Callable[[dict[str, Any]], None]
FORGERIES: dict[str, Forge] = {
    "source": lambda event: event.update(source="/gateway"),
    "source of another agent": lambda event: event.update(source="/agents/research"),
    "no source": lambda event: event.pop("source"),
    "tenant": lambda event: event.update(tenant=VICTIM),
    "session": lambda event: event.update(subject="s2"),
    "task": lambda event: event.update(taskid="t9"),
    "id": lambda event: event.update(id="00000000-0000-0000-0000-000000000000"),
}


def draft(forge: Forge | None = None) -> tuple[bytes, bytes]:
    """The JSON of an event around its sequence number."""
    event: dict[str, Any] = {
        "type": "flotilla.session.message.v1",
        "source": "/agents/adder",
        "subject": "s1",
        "data": {"role": "assistant", "content": "hi"},
        "id": EVENT_ID,
        "tenant": TENANT,
        "taskid": "t1",
    }
    if forge is not None:
        forge(event)
    return json.dumps(event)[:-1].encode() + b',"sequence":', b"}"


EVENT_ID = "6f1ed002-ab59-4f2a-9b7a-30f3f9c0c7c5"
APPEND = "SELECT flotilla.append_task_events($1, $2, $3, NULL)"


@pytest.mark.parametrize("what", FORGERIES)
async def test_an_agents_event_is_its_own(agent: Pool, what: str) -> None:
    async with acting(agent) as connection:
        for forge, expected in ((None, False), (FORGERIES[what], True)):
            head, tail = draft(forge)
            assert await refused(connection, APPEND, [EVENT_ID], [head], [tail]) is expected


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (draft()[0], b',"source":"/gateway"}'),
        (draft()[0], b',"tenant":"acme"}'),
        (draft()[0][:-12] + b',"place":', b"}"),
        (draft()[0][:-12] + b',"sequence":7,"place":', b"}"),
        (draft()[0] + b"1", b"}"),
    ],
    ids=["source twice", "tenant twice", "no sequence", "another sequence", "a longer sequence"],
)
async def test_the_place_of_an_agents_event_is_the_one_that_it_says(agent: Pool, head: bytes, tail: bytes) -> None:
    async with acting(agent) as connection:
        assert await refused(connection, APPEND, [EVENT_ID], [head], [tail])


async def test_objects_of_the_agents_own_do_not_stand_in_for_those_that_are_checked(agent: Pool) -> None:
    async with acting(agent, VICTIM) as connection:
        await connection.execute(
            "CREATE TEMP TABLE delegations AS SELECT 'acme' AS tenant_id, 't1' AS task_id, 1 AS attempt;"
            "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1';"
            "CREATE FUNCTION pg_temp.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT ''acme''';"
            "SET LOCAL search_path = pg_temp, flotilla; SET LOCAL row_security = on"
        )
        assert await seen(connection) == {}
        assert await refused(connection, "SELECT flotilla.append_task_events('{}', '{}', '{}', NULL)")


async def test_row_security_can_not_be_turned_off(agent: Pool) -> None:
    async with acting(agent, VICTIM) as connection:
        await connection.execute("SET LOCAL row_security = off")
        assert await refused(connection, "SELECT * FROM flotilla.passages")


async def test_an_agent_counts_tokens_of_its_run_and_day_and_takes_none_back(agent: Pool) -> None:
    spend = "INSERT INTO flotilla.token_budgets (tenant_id, scope, used) VALUES ($1, $2, $3)"
    async with acting(agent) as connection:
        for scope in ("run:r1", "day:2026-01-31"):
            assert not await refused(connection, spend, TENANT, scope, 9)
        assert await refused(connection, spend, TENANT, "run:r2", 9)
        assert await refused(connection, spend, VICTIM, "run:r1", 9)
        assert not await refused(connection, "UPDATE flotilla.token_budgets SET used = 10")
        assert await refused(connection, "UPDATE flotilla.token_budgets SET used = 0")


ASKED = """
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request, person, service)
    VALUES ('{}', 'r1', 's1', 'alice', 'w', 'q', 'running', '{{}}', 'user/flotilla/alice', 'shop')
"""


async def test_an_agent_counts_tokens_of_who_asked_and_of_nobody_else(agent: Pool, fleet: Database, pool: Pool) -> None:
    for tenant in (TENANT, VICTIM):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute(ASKED.format(tenant))
    spend = "INSERT INTO flotilla.token_budgets (tenant_id, scope, used) VALUES ($1, $2, 9)"
    day = "2026-01-31"
    async with acting(agent) as connection:
        assert dict(await connection.fetchrow("SELECT * FROM flotilla.asked_by()") or {}) == {
            "person": "user/flotilla/alice",
            "service": "shop",
        }
        for scope in (f"person:{day}:user/flotilla/alice", f"service:{day}:shop"):
            assert not await refused(connection, spend, TENANT, scope)
            assert await refused(connection, spend, VICTIM, scope)
        for scope in (
            f"person:{day}:user/flotilla/bob",
            f"person:{day}:user/flotilla/alic",
            f"service:{day}:user/flotilla/alice",
            f"person:{day}:shop",
            "person:user/flotilla/alice",
            f"service:{day}:other",
            "service:shop",
        ):
            assert await refused(connection, spend, TENANT, scope), scope
    async with acting(agent, held=None) as connection:
        assert await connection.fetch("SELECT * FROM flotilla.asked_by()") == []


async def test_of_many_calls_at_once_a_person_pays_for_no_more_than_their_day_has(
    agent: Pool, fleet: Database, pool: Pool
) -> None:
    async with tenant_transaction(pool, TENANT) as connection:
        await connection.execute(ASKED.format(TENANT))
    request = CompletionRequest(messages=(ChatMessage(role="user", content="x" * 60),), max_tokens=80)
    usage = TokenUsage(input_tokens=99, output_tokens=1)
    model = FakeModel(*[Completion(text="a", model="fake", usage=usage)] * 50)
    calls = StoredModelCalls(agent, model, TokenLimits(per_person_day=350, per_service_day=10_000))
    key = StoredCallKey(tenant_id=TENANT, task_id="t1", call_index=0, session_id="s1", agent="adder", run_id="r1")
    with acting_for_task(HELD):
        made = await asyncio.gather(
            *(calls.complete(replace(key, call_index=number), request) for number in range(50)), return_exceptions=True
        )
    refusals = [one for one in made if isinstance(one, TokenBudgetSpent)]
    assert (len(model.requests), len(refusals)) == (3, 47), made
    assert "FLOTILLA_LLM_TOKENS_PER_PERSON_DAY" in str(refusals[0])
    used = await tokens_used(pool)
    day = utc_now().date()
    assert used == {
        token_budget_name("person", day, "user/flotilla/alice"): 300,
        token_budget_name("service", day, "shop"): 300,
    }


async def tokens_used(pool: Pool) -> dict[str, int]:
    async with tenant_transaction(pool, TENANT) as connection:
        rows = await connection.fetch("SELECT scope, used FROM flotilla.token_budgets WHERE used > 0")
    return {row["scope"]: row["used"] for row in rows}


async def test_an_agent_forgets_no_agent_that_lives(agent: Pool) -> None:
    await agent.execute(
        "INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema, "
        "output_schema) VALUES ('adder', 'r1', '1', 's', 'g', 1, '{}', '{}')"
    )
    assert await agent.execute("DELETE FROM flotilla_ops.agents") == "DELETE 0"
