import asyncpg
import pytest

from flotilla.postgres import (
    UNSTORABLE,
    Pool,
    TaskProof,
    Viewer,
    acting_as,
    acting_for_task,
    open_pool,
    reset_session_after_use,
    tenant_snapshot,
    tenant_transaction,
)
from tests.support.postgres import Database

ODD = ["it's", "back\\", "\\'; DROP TABLE flotilla.sessions; --", "$$", "%s {0}", "\n\t", "ä€😀", '"quoted"', "E'\\x'"]
SETTING = "SELECT current_setting($1, true)"
QUERIES = "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
SECRET = TaskProof(task_id="t1", attempt=1, secret="only-its-holder-knows-this")


async def statements_of(pool: Pool) -> list[str]:
    """The statements that one connection sends for a transaction of one statement, its return to the pool included."""
    sent: list[str] = []
    async with pool.acquire() as connection:
        connection.add_query_logger(lambda query: sent.append(query.query))
    async with tenant_transaction(pool, "acme") as again:
        await again.fetchval("SELECT 1")
    async with tenant_snapshot(pool, "acme") as again:
        await again.fetchval("SELECT 2")
    return sent


async def test_a_transaction_of_one_statement_takes_three_round_trips(database: Database) -> None:
    async with open_pool(database.dsn(), application="test", max_size=1) as pool:
        sent = await statements_of(pool)
    assert [statement.partition(" ")[0].rstrip(";") for statement in sent] == ["BEGIN", "SELECT", "COMMIT"] * 2


@pytest.mark.parametrize("strings", ["on", "off"])
@pytest.mark.parametrize("odd", ODD)
async def test_any_text_is_a_tenant_whatever_the_server_takes_for_the_end_of_a_string(
    database: Database, odd: str, strings: str
) -> None:
    dsn = f"{database.dsn()}?standard_conforming_strings={strings}"
    async with open_pool(dsn, application="test") as pool:
        with acting_as(Viewer(names=[odd])):
            async with tenant_transaction(pool, odd) as connection:
                assert await connection.fetchval(SETTING, "flotilla.tenant_id") == odd
                assert await connection.fetchval("SELECT flotilla_ops.viewer_names()") == [odd]
        assert await pool.fetchval("SELECT to_regclass('flotilla.sessions')") is not None


@pytest.mark.parametrize("never", ["a\x00b", "a\ud800b"])
async def test_a_tenant_that_is_not_valid_text_is_refused_and_the_next_one_is_served(pool: Pool, never: str) -> None:
    with pytest.raises(UNSTORABLE):
        async with tenant_transaction(pool, never) as connection:
            await connection.fetchval("SELECT 1")
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.fetchval(SETTING, "flotilla.tenant_id") == "acme"


async def test_settings_end_with_their_transaction(database: Database) -> None:
    async with open_pool(database.dsn(), application="test", max_size=1) as pool:
        with acting_for_task(SECRET):
            async with tenant_transaction(pool, "acme", durable=False):
                pass
        async with pool.acquire() as connection:
            for name in ("flotilla.tenant_id", "flotilla.task_secret"):
                assert not await connection.fetchval(SETTING, name)
            assert await connection.fetchval(SETTING, "synchronous_commit") == "on"


async def test_a_tasks_secret_is_not_among_the_statements_that_its_role_sees(database: Database) -> None:
    dsn = database.dsn("flotilla_agent")
    async with open_pool(dsn, application="holder") as pool, open_pool(dsn, application="onlooker") as other:
        with acting_for_task(SECRET):
            async with tenant_transaction(pool, "acme") as connection:
                seen = " ".join(row["query"] for row in await other.fetch(QUERIES))
                assert await connection.fetchval(SETTING, "flotilla.task_secret") == SECRET.secret
    assert "set_config" in seen  # the holder's statements are among them
    assert SECRET.secret not in seen
    assert SECRET.secret.encode().hex() not in seen


async def test_savepoints_work_within(pool: Pool) -> None:
    async with tenant_transaction(pool, "acme") as connection:
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.fetchval("SELECT 1 / 0")
        assert await connection.fetchval(SETTING, "flotilla.tenant_id") == "acme"


async def test_what_an_authors_statements_leave_in_a_session_ends_with_their_turn(database: Database) -> None:
    async with open_pool(database.dsn(), application="test", max_size=1) as pool:
        async with tenant_transaction(pool, "acme") as connection:
            reset_session_after_use(connection)
            await connection.execute("SET work_mem = '77kB'")
            await connection.fetchval("SELECT pg_advisory_lock(4711)")
        assert await pool.fetchval("SHOW work_mem") != "77kB"
        assert await pool.fetchval("SELECT count(*) FROM pg_locks WHERE objid = 4711") == 0
