"""What an agent does with the tickets and in the name of another agent: each has a role of its own in PostgreSQL."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flotilla.contracts.names import agent_role, task_stream
from flotilla.postgres import Pool, TaskProof, open_pool
from tests.support.postgres import Database
from tests.support.thieves import HELD, TENANT, VICTIM, acting, refused, seen

STOLEN = TaskProof(task_id="t9", attempt=1, secret="of research")
"""The ticket of a task of agent `research`."""
REGISTER = (
    "INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema, "
    "output_schema) VALUES ($1, gen_random_uuid()::text, '1', 's', 'g', 1, '{}', '{}')"
)
KEEP = (
    "SELECT flotilla.keep_dead_letter('default', gen_random_uuid()::text, $1, 'g', '1', 't', 's', 'r', 'e', 'x', 'x', "
    "1, '', '{}')"
)
UNTICKETED = "SELECT flotilla.unticketed_task('default', 't7', 'research', 1)"
MISSING = (
    "INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, status, attempt) "
    "VALUES ('default', 't7', 'research', 's2', 'queued', 1)"
)
LOGINS = ("adder", "research")


@pytest.fixture
async def owner(fleet: Database) -> AsyncIterator[Pool]:
    """The agent that the stolen ticket was issued to."""
    async with open_pool(fleet.dsn(agent_role("research")), application="research") as opened:
        yield opened


async def test_a_ticket_opens_its_task_to_the_agent_that_it_was_issued_to(owner: Pool) -> None:
    async with acting(owner, held=STOLEN) as connection:
        assert {"sessions", "documents", "agent_tasks", "llm_calls"} <= set(await seen(connection))
        assert await connection.fetchval("SELECT flotilla.ticket_state()") == "open"


@pytest.mark.parametrize("tenant", [TENANT, VICTIM])
async def test_a_stolen_ticket_opens_nothing_to_another_agent(agent: Pool, tenant: str) -> None:
    async with acting(agent, tenant, held=STOLEN) as connection:
        assert await seen(connection) == {}
        assert await connection.fetchval("SELECT flotilla.ticket_state()") is None
        assert await refused(connection, "SELECT flotilla.append_task_events('{}', '{}', '{}', NULL)")
        assert await refused(
            connection,
            "INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, status, attempt) "
            "VALUES ('default', 't9', 'research', 's2', 'done', 1) "
            "ON CONFLICT (tenant_id, task_id) DO UPDATE SET status = 'done'",
        )


@pytest.mark.parametrize("name", ["flotilla_agent", agent_role("research"), "flotilla_app", "flotilla_definer"])
async def test_an_agent_becomes_no_other_role(agent: Pool, name: str) -> None:
    async with acting(agent, held=STOLEN) as connection:
        for statement in (f"SET ROLE {name}", f"SET SESSION AUTHORIZATION {name}", f"GRANT {name} TO CURRENT_USER"):
            assert await refused(connection, statement)
        assert await refused(connection, f"ALTER ROLE {name} PASSWORD 'mine'")
        assert await refused(connection, "SELECT flotilla_ops.create_agent_role('mine')")


async def test_settings_that_look_like_a_login_change_nothing(agent: Pool) -> None:
    async with acting(agent, held=STOLEN) as connection:
        for name in ("session_user", "flotilla.session_user", "flotilla.agent"):
            await connection.execute("SELECT set_config($1, $2, true)", f"x.{name}", agent_role("research"))
        await connection.execute(
            "CREATE FUNCTION pg_temp.is_agent(text) RETURNS boolean LANGUAGE sql RETURN true;"
            "SET LOCAL search_path = pg_temp, flotilla_ops"
        )
        assert await seen(connection) == {}


async def test_an_agent_registers_renews_and_forgets_itself_only(agent: Pool, owner: Pool) -> None:
    await owner.execute(REGISTER, "research")
    await owner.execute("UPDATE flotilla_ops.agents SET last_seen = now() - interval '2 hours'")
    async with acting(agent) as connection:
        assert await refused(connection, REGISTER, "research")
        assert not await refused(connection, REGISTER, "adder")
        assert await refused(connection, "UPDATE flotilla_ops.agents SET name = 'research' WHERE name = 'adder'")
        assert await connection.execute("UPDATE flotilla_ops.agents SET timeout_s = 1") == "UPDATE 1"
        assert await connection.execute("DELETE FROM flotilla_ops.agents WHERE name = 'research'") == "DELETE 0"
    assert await owner.execute("DELETE FROM flotilla_ops.agents") == "DELETE 1"


async def test_an_agent_keeps_dead_letters_of_its_own_stream_only(agent: Pool) -> None:
    async with acting(agent) as connection:
        assert not await refused(connection, KEEP, task_stream("adder"))
        for stream in (task_stream("research"), task_stream("adder2"), task_stream(""), "flotilla.replies.adder"):
            assert await refused(connection, KEEP, stream)


async def test_an_agent_asks_about_unticketed_tasks_of_its_own_only(agent: Pool, owner: Pool, pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('flotilla.tenant_id', 'default', true)")
        await connection.execute(MISSING)
    assert await owner.fetchval(UNTICKETED) == "waits"
    assert await agent.fetchval(UNTICKETED) is None


async def test_an_agent_ends_no_statement_of_another(agent: Pool, owner: Pool) -> None:
    async with owner.acquire() as victim:
        pid = await victim.fetchval("SELECT pg_backend_pid()")
        for function in ("pg_cancel_backend", "pg_terminate_backend"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await agent.execute(f"SELECT {function}($1)", pid)


async def test_the_role_that_agents_of_former_versions_share_counts_for_each_until_it_is_closed(
    fleet: Database,
) -> None:
    async with open_pool(fleet.dsn("flotilla_agent"), application="former") as former:
        for held in (HELD, STOLEN):
            async with acting(former, held=held) as connection:
                assert "sessions" in await seen(connection)
