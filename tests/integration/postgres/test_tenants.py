import asyncpg
import pytest

from flotilla.contracts.errors import RetryLater
from flotilla.postgres import Pool, check_schema, open_pool, tenant_transaction
from flotilla.postgres.migrate import migrate
from flotilla_devstack import RunningStack
from tests.support.postgres import Database

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'u')"
COUNT_SESSIONS = "SELECT count(*) FROM flotilla.sessions"
# Tables of the tenant schemas that miss something: the column, a key that starts with it, row level security that is on
# and forced, the application's policy, or that have another policy that would open them to it.
UNPROTECTED = """
SELECT c.oid::regclass::text, array_remove(ARRAY[
    CASE WHEN k.first_column IS DISTINCT FROM 'tenant_id' THEN 'key' END,
    CASE WHEN NOT c.relrowsecurity THEN 'row level security' END,
    CASE WHEN NOT c.relforcerowsecurity THEN 'forced' END,
    CASE WHEN NOT EXISTS (SELECT FROM pg_policies AS p WHERE (p.schemaname || '.' || p.tablename)::regclass = c.oid
        AND p.roles @> '{flotilla_app,flotilla_gateway,flotilla_worker}' AND p.cmd = 'ALL'
        AND p.qual = '(tenant_id = flotilla_ops.current_tenant())'
        AND coalesce(p.with_check, p.qual) = p.qual) THEN 'policy' END,
    CASE WHEN EXISTS (SELECT FROM pg_policies AS p WHERE (p.schemaname || '.' || p.tablename)::regclass = c.oid
        AND p.permissive = 'PERMISSIVE' AND p.roles && '{flotilla_app,flotilla_gateway,flotilla_worker,public}'
        AND (coalesce(p.qual, '') || coalesce(p.with_check, '')) NOT LIKE '%current_tenant()%') THEN 'open policy' END,
    CASE WHEN EXISTS (SELECT FROM pg_policies AS p WHERE (p.schemaname || '.' || p.tablename)::regclass = c.oid
        AND p.permissive = 'PERMISSIVE' AND p.roles && '{flotilla_agent,public}'
        AND (coalesce(p.qual, '') || coalesce(p.with_check, ''))
            !~ '(held_task|task_sessions|FROM flotilla.actions)') THEN 'no ticket' END
], NULL) AS missing
FROM pg_class AS c
LEFT JOIN LATERAL (
    SELECT a.attname AS first_column FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = c.oid AND i.indisprimary) AS k ON true
WHERE c.relnamespace IN ('flotilla'::regnamespace, 'audit'::regnamespace) AND c.relkind IN ('r', 'p')
ORDER BY 1
"""
OF_THE_FLEET = {
    "audit.consumer_offsets",
    "audit.checkpoints",
    "audit.kept_projection",
    "audit.log_tiles",
    "audit.log_cosignatures",
    "audit.log_stamps",
}
"""Offsets and signed hashes of Kafka's partitions, and what a rebuild replaced: they belong to no tenant, and the
application can't use them."""
BY_ID = {"flotilla.event_outbox"}
"""Its key is the id alone: rows of all tenants leave in one order."""
READABLE = """
SELECT c.oid::regclass::text FROM pg_class AS c
WHERE c.relnamespace IN ('flotilla'::regnamespace, 'audit'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND has_any_column_privilege('flotilla_app', c.oid, 'SELECT, INSERT, UPDATE')
"""
LEAKS = {
    "CREATE TABLE flotilla.leak (id text PRIMARY KEY)": {"key", "row level security", "forced", "policy"},
    "CREATE TABLE audit.leak (tenant_id text PRIMARY KEY)": {"row level security", "forced", "policy"},
    "CREATE TABLE flotilla.leak (id text, tenant_id text, PRIMARY KEY (id, tenant_id));"
    "SELECT flotilla_ops.protect('flotilla.leak')": {"key"},
    "CREATE TABLE flotilla.leak (tenant_id text PRIMARY KEY); SELECT flotilla_ops.protect('flotilla.leak');"
    "ALTER TABLE flotilla.leak NO FORCE ROW LEVEL SECURITY": {"forced"},
    "CREATE TABLE flotilla.leak (tenant_id text PRIMARY KEY); SELECT flotilla_ops.protect('flotilla.leak');"
    "CREATE POLICY everybody ON flotilla.leak FOR SELECT USING (true)": {"open policy", "no ticket"},
}


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


async def test_every_table_is_under_the_tenant_policy(database: Database) -> None:
    found = await unprotected(database)
    assert set(found) == OF_THE_FLEET | BY_ID
    assert all(found[name] == ["key"] for name in BY_ID)


@pytest.mark.parametrize("statement", LEAKS)
async def test_a_table_that_lacks_a_part_of_the_tenant_policy_is_found(database: Database, statement: str) -> None:
    before = set(await unprotected(database))
    found = await unprotected(database, statement)
    [leak] = set(found) - before
    assert set(found[leak]) == LEAKS[statement]


async def test_the_application_can_use_no_table_that_mixes_tenants(database: Database) -> None:
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        usable = {row[0] for row in await connection.fetch(READABLE)}
    finally:
        await connection.close()
    assert "flotilla.sessions" in usable
    assert usable & set(await unprotected(database)) == BY_ID


async def unprotected(database: Database, statement: str | None = None) -> dict[str, list[str]]:
    """Tables and what they miss, after `statement`."""
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        if statement is not None:
            await connection.execute(statement)
        return {row[0]: row["missing"] for row in await connection.fetch(UNPROTECTED) if row["missing"]}
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
