"""What each service's password for PostgreSQL is worth to a thief: every role tries what is none of its business."""

import asyncpg
import pytest

from flotilla.contracts.session_events import AgentStateEvent
from flotilla.outbox import append
from flotilla.postgres import open_pool, tenant_transaction
from tests.support.postgres import Database
from tests.support.thieves import TENANT, acting, refused

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
CONFIRMED = (
    "INSERT INTO audit.requests (tenant_id, request_id, kind, requested_by, confirmed_by) "
    "VALUES ('default', 'x', 'rebuild', 'ann', 'bob')"
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
    CONFIRMED,
    CONFIRMED.replace("confirmed_by", "started_at").replace("'bob'", "now()"),
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
    "flotilla_agent_adder": NOT_THE_AGENTS,
    "flotilla_gateway": NOT_THE_GATEWAYS,
    "flotilla_worker": NOT_THE_WORKERS,
    "flotilla_relay": NOT_THE_RELAYS,
    "flotilla_audit": NOT_THE_AUDIT_CONSUMERS,
}


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
