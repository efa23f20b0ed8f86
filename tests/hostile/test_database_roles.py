"""What each service's password for PostgreSQL is worth to a thief: every role tries what is none of its business.

The agent's role holds the ticket of one open task; it names tenants, tasks and secrets as it likes.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from flotilla.contracts.session_events import AgentStateEvent
from flotilla.knowledge import KnowledgeBase, Upload
from flotilla.outbox import append
from flotilla.postgres import Connection, HeldTask, Pool, holding, open_pool, tenant_transaction
from tests.support.agents import delegate, task
from tests.support.postgres import Database

TENANT, VICTIM = "default", "acme"
HELD = HeldTask(task_id="t1", attempt=1, secret="a secret")
MINT = (
    "INSERT INTO flotilla.api_keys (tenant_id, key_id, name, key_hash, subject, roles, created_by) "
    "VALUES ('default', 'k', 'k', 'x', 'mallory', '{admin}', 'mallory')"
)
OUTBOX = (
    "INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body) "
    "VALUES (0, 'default', 's1', 1, gen_random_uuid(), '{}')"
)
COUNTED = (
    "INSERT INTO flotilla.approval_decisions (tenant_id, approval_id, attempt_id, update_id, subject, decision, "
    "content_hash, policy_version, outcome) VALUES ('default', 'a1', 'x', 'x', 'bob', 'approve', 'h', '1', 'counted')"
)
APPROVE = "UPDATE flotilla.approvals SET status = 'approved'"
LANE = "UPDATE flotilla_ops.leases SET owner = 'mallory', epoch = epoch + 1 WHERE name = 'outbox.lane.00'"
LEADER = "DELETE FROM flotilla_ops.leases WHERE name = 'leader'"
REWRITE = "UPDATE audit.session_events SET body = ''"
CHECKPOINT = "INSERT INTO audit.checkpoints VALUES (0, 1, '', '', 'k', '', now())"
HEAD = "UPDATE flotilla.sessions SET head_seq = 0"
MONEY = "UPDATE flotilla.accounts SET available_minor = 1000000"
DELEGATE = "UPDATE flotilla.delegations SET secret_hash = sha256('mine'), state = 'open'"
EXECUTED = (
    "INSERT INTO flotilla.action_executions (tenant_id, idempotency_key, action_id, action, content_hash) "
    "VALUES ('default', 'a1', 'a1', 'echo', 'h')"
)
OPEN_TASK = (
    "INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, status) "
    "VALUES ('default', 'mine', 'adder', 's1', 'done')"
)
OF_NOBODY = (
    "SET ROLE flotilla_definer",
    "SET ROLE flotilla_install",
    "SET ROLE flotilla_app",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER ROLE flotilla_scaler PASSWORD 'mine'",
    "CREATE ROLE mine",
    "ALTER TABLE flotilla.sessions DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY open ON flotilla.sessions USING (true)",
    "GRANT flotilla_definer TO CURRENT_USER",
    "CREATE FUNCTION flotilla.held_task(x integer) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "CREATE OR REPLACE FUNCTION flotilla_ops.current_tenant() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "CREATE TABLE flotilla.mine (x integer)",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT rolpassword FROM pg_authid",
    "SELECT flotilla.append_rows('default', 's1', NULL, 0::smallint, '{}', '{}', '{}', NULL)",
    "UPDATE flotilla_ops._yoyo_migration SET migration_id = 'x'",
    "DELETE FROM audit.kept_projection",
)
NOT_THE_AGENTS = (
    MINT, OUTBOX, COUNTED, APPROVE, LANE, LEADER, REWRITE, CHECKPOINT, HEAD, MONEY, DELEGATE, *OF_NOBODY,
    "DELETE FROM flotilla.event_outbox",
    "SELECT * FROM flotilla.event_outbox",
    "SELECT * FROM flotilla.api_keys",
    "SELECT * FROM flotilla.people",
    "SELECT secret_hash FROM flotilla.delegations",
    "SELECT live_key FROM flotilla.runs",
    "SELECT * FROM flotilla.approvals",
    "SELECT * FROM flotilla.dead_letters",
    "SELECT user_id FROM flotilla.sessions",
    "SELECT * FROM audit.session_events",
    "SELECT * FROM flotilla.authenticate('x')",
    "SELECT * FROM flotilla.unfinished_work('0', '-infinity', true, 9)",
    "SELECT flotilla.redrive_outbox('s1')",
    "SELECT flotilla.append_events('acme', 's1', NULL, 0::smallint, '{}', '{}', '{}', NULL)",
    "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('default', 'mine', 'mallory')",
    "INSERT INTO flotilla.delegations SELECT * FROM flotilla.delegations",
    "UPDATE flotilla.passages SET body = ''",
    "DELETE FROM flotilla.documents",
    "UPDATE flotilla.actions SET approval_status = 'approved'",
    "UPDATE flotilla.action_executions SET result = '1'",
    EXECUTED,
    "DELETE FROM flotilla.agent_actions",
    "DELETE FROM flotilla.tool_calls",
    "DELETE FROM flotilla.llm_calls",
    "SELECT flotilla.keep_dead_letter('default','x','flotilla.replies.a','g','1','t','s','r','e','x','x',1,'','{}')",
)  # fmt: skip
NOT_THE_GATEWAYS = (
    OUTBOX, COUNTED, APPROVE, LANE, LEADER, REWRITE, CHECKPOINT, HEAD, MONEY, DELEGATE, *OF_NOBODY,
    "DELETE FROM flotilla.event_outbox",
    "UPDATE flotilla.approval_decisions SET outcome = 'counted'",
    "UPDATE flotilla.api_keys SET roles = '{admin}'",
    "UPDATE flotilla.api_keys SET key_hash = 'mine'",
    "UPDATE flotilla.runs SET status = 'success'",
    "UPDATE flotilla.runs SET result = '{}'",
    "UPDATE flotilla.actions SET approval_status = 'approved'",
    "INSERT INTO flotilla.approvals SELECT * FROM flotilla.approvals",
    EXECUTED,
    OPEN_TASK,
    "UPDATE flotilla.agent_tasks SET result = '{}'",
    "UPDATE flotilla.orders SET approval = 'approved'",
    "SELECT secret_hash FROM flotilla.delegations",
    "UPDATE flotilla_ops.agents SET timeout_s = 1",
    "DELETE FROM audit.requests",
)  # fmt: skip
NOT_THE_WORKERS = (
    MINT, OUTBOX, REWRITE, CHECKPOINT, HEAD, *OF_NOBODY,
    "DELETE FROM flotilla.event_outbox",
    "SELECT key_hash FROM flotilla.api_keys",
    "UPDATE flotilla.people SET roles = '{approver}'",
    "INSERT INTO flotilla.people VALUES ('default', 'mallory', 'm', '{approver}')",
    "INSERT INTO flotilla.sign_ins SELECT * FROM flotilla.sign_ins",
    "INSERT INTO flotilla.accounts (tenant_id, user_id, currency, available_minor) VALUES ('default', 'm', 'EUR', 1)",
    "DELETE FROM flotilla.approval_decisions",
    "DELETE FROM flotilla.approvals",
    "SELECT * FROM flotilla.passages",
    "UPDATE flotilla.tool_calls SET result = '{}'",
    "INSERT INTO flotilla.llm_calls SELECT * FROM flotilla.llm_calls",
    "INSERT INTO audit.requests (tenant_id, request_id, kind, requested_by) VALUES ('default', 'x', 'rebuild', 'm')",
)  # fmt: skip
NOT_THE_RELAYS = (
    MINT, OUTBOX, COUNTED, APPROVE, REWRITE, CHECKPOINT, HEAD, MONEY, DELEGATE, *OF_NOBODY,
    "UPDATE flotilla.event_outbox SET body = '{}'",
    "SELECT * FROM flotilla.sessions",
    "SELECT * FROM flotilla.api_keys",
    "SELECT flotilla.redrive_outbox('s1', '{}')",
    "SELECT flotilla.append_events('default', 's1', NULL, 0::smallint, '{}', '{}', '{}', NULL)",
)  # fmt: skip
NOT_THE_AUDIT_CONSUMERS = (
    MINT, OUTBOX, COUNTED, APPROVE, LANE, LEADER, HEAD, MONEY, DELEGATE, *OF_NOBODY[:-1],
    "SELECT * FROM flotilla.event_outbox",
    "DELETE FROM flotilla.event_outbox",
    "SELECT * FROM flotilla.sessions",
    "SELECT * FROM flotilla.api_keys",
    "SELECT * FROM flotilla.runs",
)  # fmt: skip
EVERYTHING = {
    "flotilla_agent": NOT_THE_AGENTS,
    "flotilla_gateway": NOT_THE_GATEWAYS,
    "flotilla_worker": NOT_THE_WORKERS,
    "flotilla_relay": NOT_THE_RELAYS,
    "flotilla_audit": NOT_THE_AUDIT_CONSUMERS,
}
OF_TASKS = (
    "sessions", "interactions", "session_rollbacks", "documents", "passages", "postings", "indexed_documents",
    "knowledge_bases", "agent_tasks", "llm_calls", "llm_claims", "tool_calls", "token_budgets", "token_reservations",
    "actions", "action_executions",
)  # fmt: skip
"""The tables that agents may read rows of."""


@pytest.fixture
async def fleet(pool: Pool, database: Database) -> Database:
    """Two tenants with the same kinds of rows; of `default` task t1 is open, and t9 is another agent's."""
    for tenant in (TENANT, VICTIM):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute(_ROWS.replace("TENANT", tenant))
        await KnowledgeBase(pool).add(tenant, Upload(uri="cats.md", content=b"# Cats\n\nCats eat fish."))
        await delegate(
            pool,
            task(tenant_id=tenant, secret=HELD.secret if tenant == TENANT else "another"),
            task("t9", "research", tenant_id=tenant, session_id="s2", run_id="r2", secret="of research"),
        )
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute(_WORK.replace("TENANT", tenant))
    owner = await asyncpg.connect(database.superuser_dsn)
    await owner.execute("INSERT INTO flotilla_ops.leases VALUES ('leader', 'w1', 1, 'infinity')")
    await owner.close()
    return database


_ROWS = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id)
    VALUES ('TENANT', 's1', 'alice'), ('TENANT', 's2', 'bob');
INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources,
    message_seq)
    SELECT 'TENANT', s, 'u', s, 'r', 'q', 'a', '[]', 1 FROM unnest(ARRAY['s1', 's2']) AS s;
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request)
    VALUES ('TENANT', 'r2', 's2', 'bob', 'w', 'q', 'pending', '{}');
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
    VALUES ('TENANT', 'a1', 's1', 'w', 'echo', '', '{}', 'h', 'low', '{}', 'alice', '{}', '1', 1, 'infinity');
INSERT INTO flotilla.approval_decisions (tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash,
    policy_version) VALUES ('TENANT', 'a1', 'v1', 'u1', 'bob', 'approve', 'h', '1');
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, request) VALUES ('TENANT', 'a1', 's1', 'w', 'echo', '', '{}', 'low', 'alice', '{"task_id": "t9"}');
"""
_WORK = """
INSERT INTO flotilla.llm_calls (tenant_id, task_id, call_index, request_hash, session_id, agent, model, answer,
    input_tokens, output_tokens, duration_ms)
    VALUES ('TENANT', 't9', 0, 'x', 's2', 'research', 'm', '{"text": "bought"}', 1, 1, 1);
INSERT INTO flotilla.tool_calls (tenant_id, task_id, tool, args_hash, occurrence, start_no, call_id, session_id, agent,
    called, expires_at) VALUES ('TENANT', 't9', 'plus', 'x', 0, 1, 'c', 's2', 'research', '{}', 'infinity');
UPDATE flotilla.agent_tasks SET status = 'done', result = '{"private": 1}' WHERE task_id = 't9';
"""


@pytest.fixture
async def agent(fleet: Database) -> AsyncIterator[Pool]:
    async with open_pool(fleet.dsn("flotilla_agent"), application="mallory") as opened:
        yield opened


@asynccontextmanager
async def acting(pool: Pool, tenant: str = TENANT, held: HeldTask | None = HELD) -> AsyncIterator[Connection]:
    """One transaction of the thief's, under settings of their choice; nothing of it stays."""
    with holding(held):
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                names = {"flotilla.tenant_id": tenant, "flotilla.sees_all": "on"}
                if held is not None:
                    names |= {
                        "flotilla.task_id": held.task_id,
                        "flotilla.task_attempt": str(held.attempt),
                        "flotilla.task_secret": held.secret,
                    }
                for name, value in names.items():
                    await connection.execute("SELECT set_config($1, $2, true)", name, value)
                yield connection
            finally:
                await transaction.rollback()


async def refused(connection: Connection, statement: str, *arguments: object) -> bool:
    """Whether the rights stop it; a statement that finds no row to change has not been refused."""
    try:
        async with connection.transaction():
            await connection.execute(statement, *arguments)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


async def seen(connection: Connection) -> dict[str, int]:
    """How many rows of each table the agent sees."""
    counts = {table: await connection.fetchval(f"SELECT count(*) FROM flotilla.{table}") for table in OF_TASKS}
    return {table: count for table, count in counts.items() if count}


@pytest.mark.parametrize("role", EVERYTHING)
async def test_a_role_is_refused_what_is_none_of_its_work(fleet: Database, role: str) -> None:
    async with open_pool(fleet.dsn(role), application="thief") as pool, acting(pool) as connection:
        done = [each for each in EVERYTHING[role] if not await refused(connection, each)]
    assert done == []


@pytest.mark.parametrize(
    ("role", "statement", "name"),
    [("flotilla_worker", LANE, "outbox.lane.99"), ("flotilla_relay", LEADER, "leader of mine")],
)
async def test_leases_are_those_of_one_service(fleet: Database, role: str, statement: str, name: str) -> None:
    async with open_pool(fleet.dsn(role), application="thief") as pool, acting(pool) as connection:
        assert (await connection.execute(statement)).endswith(" 0")
        assert await refused(connection, "INSERT INTO flotilla_ops.leases VALUES ($1, 'mallory', 1, now())", name)


@pytest.mark.parametrize(
    "held",
    [
        None,
        HeldTask(task_id="t1", attempt=1, secret="guessed"),
        HeldTask(task_id="t1", attempt=2, secret=HELD.secret),
        HeldTask(task_id="t9", attempt=1, secret=HELD.secret),
        HeldTask(task_id="", attempt=1, secret=""),
    ],
    ids=["no ticket", "guessed secret", "another try", "another task", "empty"],
)
@pytest.mark.parametrize("tenant", [TENANT, VICTIM])
async def test_an_agent_without_a_ticket_sees_nothing_of_any_tenant(
    agent: Pool, tenant: str, held: HeldTask | None
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
        task("t9~1", "write", session_id="s2", run_id="r2", secret="of the second hop", input_from="t9"),
        task("t9~2", "check", session_id="s2", run_id="r2", secret="of the third hop"),
    )
    for task_id, secret, seen_tasks in (
        ("t9~1", "of the second hop", ["t9", "t9~1"]),
        ("t9~2", "of the third hop", ["t9~2"]),
    ):
        async with acting(agent, held=HeldTask(task_id=task_id, attempt=1, secret=secret)) as connection:
            rows = await connection.fetch("SELECT task_id FROM flotilla.agent_tasks ORDER BY 1")
            assert [row["task_id"] for row in rows] == seen_tasks


async def test_an_agent_of_a_former_workers_task_sees_the_answers_of_its_run(agent: Pool, pool: Pool) -> None:
    await delegate(pool, task("t8", session_id="s2", run_id="r2", secret="of t8"))
    async with tenant_transaction(pool, TENANT) as connection:
        await connection.execute("UPDATE flotilla.delegations SET input_from = DEFAULT WHERE task_id = 't8'")
    async with acting(agent, held=HeldTask(task_id="t8", attempt=1, secret="of t8")) as connection:
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


async def test_an_agent_forgets_no_agent_that_lives(agent: Pool) -> None:
    await agent.execute(
        "INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema, "
        "output_schema) VALUES ('research', 'r1', '1', 's', 'g', 1, '{}', '{}')"
    )
    assert await agent.execute("DELETE FROM flotilla_ops.agents") == "DELETE 0"


async def test_the_gateway_appends_in_its_own_name_only(fleet: Database) -> None:
    async with open_pool(fleet.dsn("flotilla_gateway"), application="thief") as pool:
        for source in ("/agents/research", "/workflow-worker", "/workflows/HumanInTheLoopWorkflow", "/Gateway"):
            event = AgentStateEvent(kind="message", data={"role": "assistant", "content": "hi"}, source=source)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with tenant_transaction(pool, TENANT) as connection:
                    await append(connection, TENANT, "s1", [event])


async def test_the_gateway_records_attempts_of_votes_and_that_they_were_refused(fleet: Database) -> None:
    async with open_pool(fleet.dsn("flotilla_gateway"), application="gateway") as pool, acting(pool) as connection:
        assert await refused(connection, "UPDATE flotilla.approval_decisions SET outcome = 'counted'")
        assert await connection.execute("UPDATE flotilla.approval_decisions SET outcome = 'refused'") == "UPDATE 1"
        assert await connection.execute("UPDATE flotilla.approval_decisions SET outcome = 'refused'") == "UPDATE 0"


async def test_no_function_that_runs_with_more_rights_finds_names_by_the_callers_search_path(fleet: Database) -> None:
    owner = await asyncpg.connect(fleet.superuser_dsn)
    try:
        loose = await owner.fetch(
            "SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
            "WHERE n.nspname IN ('flotilla', 'flotilla_ops', 'audit') AND p.prosecdef "
            "AND NOT coalesce(p.proconfig::text, '') ~ 'search_path=pg_catalog'"
        )
        public = await owner.fetch(
            "SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
            "WHERE n.nspname IN ('flotilla', 'audit') AND has_function_privilege('public', p.oid, 'EXECUTE')"
        )
    finally:
        await owner.close()
    assert (list(loose), list(public)) == ([], [])
