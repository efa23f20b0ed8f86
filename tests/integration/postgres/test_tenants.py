import asyncpg
import pytest

from flotilla.contracts.errors import RetryLater
from flotilla.postgres import Pool, check_schema, open_pool, tenant_transaction
from flotilla.postgres.migrate import migrate
from flotilla_devstack import RunningStack
from tests.support.postgres import Database

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'u')"
COUNT_SESSIONS = "SELECT count(*) FROM flotilla.sessions"
# Tables of the tenant schemas without an enabled and forced policy, or whose key does not start with the tenant.
UNPROTECTED = """
SELECT c.oid::regclass::text FROM pg_class AS c
WHERE c.relnamespace IN ('flotilla'::regnamespace, 'audit'::regnamespace) AND c.relkind IN ('r', 'p')
  AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
  AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
      SELECT FROM pg_policies AS p WHERE (p.schemaname || '.' || p.tablename)::regclass = c.oid
      AND p.qual LIKE '%current_tenant()%' AND p.roles = '{flotilla_app}'))
"""
# What the application role may read although no tenant policy can hold it.
WITHOUT_TENANT = """
SELECT c.oid::regclass::text FROM pg_class AS c
WHERE c.relnamespace IN ('flotilla'::regnamespace, 'audit'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm')
  AND has_table_privilege('flotilla_app', c.oid, 'SELECT')
  AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
"""


async def test_a_tenant_sees_nothing_of_another_by_sql(pool: Pool) -> None:
    for tenant in ("acme", "globex"):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute(ADD_SESSION, tenant, "s1")
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.fetchval(COUNT_SESSIONS) == 1
        assert await connection.execute("UPDATE flotilla.sessions SET user_id = 'x'") == "UPDATE 1"


async def test_a_row_for_another_tenant_is_refused(pool: Pool) -> None:
    async with tenant_transaction(pool, "acme") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(ADD_SESSION, "globex", "s1")


async def test_without_a_tenant_nothing_is_seen(pool: Pool) -> None:
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute(ADD_SESSION, "acme", "s1")
    assert await pool.fetchval(COUNT_SESSIONS) == 0


async def test_a_pooled_connection_does_not_carry_its_tenant_over(database: Database) -> None:
    async with open_pool(database.dsn(), application="test", max_size=1) as pool:
        async with tenant_transaction(pool, "acme") as connection:
            await connection.execute(ADD_SESSION, "acme", "s1")
        assert await pool.fetchval(COUNT_SESSIONS) == 0


async def test_every_table_with_tenants_is_under_the_tenant_policy(database: Database) -> None:
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        assert [row[0] for row in await connection.fetch(UNPROTECTED)] == []
        await connection.execute("CREATE TABLE flotilla.leaky (tenant_id text PRIMARY KEY)")
        assert [row[0] for row in await connection.fetch(UNPROTECTED)] == ["flotilla.leaky"]
    finally:
        await connection.close()


async def test_the_application_reads_no_table_that_mixes_tenants(database: Database) -> None:
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        assert [row[0] for row in await connection.fetch(WITHOUT_TENANT)] == []
    finally:
        await connection.close()


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    assert migrate(database.superuser_dsn) == []


async def test_a_database_without_the_schema_is_not_ready_and_says_what_to_run(stack_database: Database) -> None:
    async with open_pool(stack_database.superuser_dsn, application="test") as pool:
        with pytest.raises(RetryLater, match=r"flotilla\.install"):
            await check_schema(pool)


async def test_a_database_that_is_away_is_not_ready_and_does_not_raise_at_start() -> None:
    async with open_pool("postgresql://nobody@127.0.0.1:1/none", application="test") as pool:
        with pytest.raises(RetryLater, match="does not answer"):
            await check_schema(pool)


@pytest.fixture
def stack_database(stack: RunningStack) -> Database:
    """The server's own database, which no migration touched."""
    return Database(stack.postgres_dsn("postgres"))
