"""PgBouncer in transaction mode: nothing that Flotilla does needs a session of its own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from audit_consumer.connections import LIVE, NEXT, open_projection_pool
from audit_consumer.rebuild import rebuild_projection
from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import AWAY, ITSELF, acting_as, check_schema, open_pool, tenant_transaction
from flotilla.postgres.connecting import libpq_dsn
from flotilla.postgres.locks import try_advisory_lock
from flotilla.postgres.migrate import migrate
from flotilla_devstack import RunningStack
from flotilla_devstack.servers.postgres import SUPERUSER
from outbox_relay.rows import open_relay_pool
from tests.ha.topologies.pgbouncer import PgBouncer, start_pgbouncer
from tests.support.audit import Projected, audit_settings, events_of, publish, running_audit
from tests.support.audit_fixtures import kafka, projected
from tests.support.postgres import Database
from tests.support.session_events import append_messages
from tests.support.waiting import eventually

__all__ = ["kafka", "projected"]
ROLES = ("flotilla_app", "flotilla_audit", "flotilla_relay", SUPERUSER)


@pytest.fixture(scope="module")
def pgbouncer(stack: RunningStack) -> Iterator[PgBouncer]:
    running = start_pgbouncer(stack, *ROLES)
    yield running
    running.stop()


@pytest.fixture
def dsn(pgbouncer: PgBouncer, database: Database) -> str:
    return pgbouncer.before(database.dsn())


async def test_settings_go_with_each_transaction_and_reach_no_other_client(dsn: str) -> None:
    """Three connections of PostgreSQL are shared by three pools of one role."""
    async with (
        open_relay_pool(dsn) as relay,
        open_projection_pool(dsn, LIVE, application="live") as live,
        open_projection_pool(dsn, NEXT, application="next") as following,
        open_pool(dsn, application="plain") as plain,
    ):

        async def look() -> None:
            assert await relay.fetchval("SHOW enable_seqscan") == "off"
            assert await relay.fetchval("SELECT current_setting($1)", "work_mem") == "32MB"
            assert await live.fetchval("SHOW search_path") == "audit, pg_catalog, pg_temp"
            assert await live.fetchval("SHOW statement_timeout") == "10s"
            assert await following.fetchval("SHOW search_path") == "audit_next, pg_catalog, pg_temp"
            assert await plain.fetchval("SHOW enable_seqscan") == "on"
            assert await plain.fetchval("SHOW search_path") == '"$user", public'
            async with plain.acquire() as connection, connection.transaction():
                assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "30s"
            assert await plain.fetchval("SHOW idle_in_transaction_session_timeout") == "0"

        await asyncio.gather(*(look() for _ in range(20)))


async def test_statements_of_many_clients_are_not_mixed_up(dsn: str) -> None:
    async with open_pool(dsn, application="one", max_size=8) as one, open_pool(dsn, application="two") as two:

        async def ask(number: int) -> None:
            for pool in (one, two):
                assert await pool.fetchval("SELECT $1::int + 1", number) == number + 1
                assert await pool.fetchval("SELECT $1::text || 'x'", str(number)) == f"{number}x"
                async with pool.acquire() as connection:
                    await connection.executemany("SELECT $1::int", [(1,), (2,)])

        await asyncio.gather(*(ask(number) for number in range(60)))


async def test_tenants_on_shared_connections_see_their_own_rows_alone(dsn: str) -> None:
    async with open_pool(dsn, application="one") as one, open_pool(dsn, application="two") as two:

        async def work(tenant: str, number: int) -> None:
            pool = (one, two)[number % 2]
            with acting_as(ITSELF):
                await append_messages(pool, f"{tenant}-{number}", [tenant], tenant)
                async with tenant_transaction(pool, tenant) as connection:
                    await asyncio.sleep(0)
                    seen = await connection.fetch("SELECT DISTINCT tenant_id FROM flotilla.sessions")
            assert [row["tenant_id"] for row in seen] == [tenant]

        await asyncio.gather(*(work(f"tenant-{number % 3}", number) for number in range(30)))
        assert await one.fetchval("SELECT count(*) FROM flotilla.sessions") == 0
        assert len(await AgentEventStore(one, "tenant-1").replay("tenant-1-1")) == 1


async def test_a_lock_is_held_by_one_and_ends_with_its_holder(dsn: str) -> None:
    async with open_pool(dsn, application="one") as one, open_pool(dsn, application="two") as two:
        async with try_advisory_lock(one, 7) as holder:
            assert holder is not None
            async with try_advisory_lock(two, 7) as other:
                assert other is None
            holder.terminate()
            await eventually(lambda: _is_free(two))
        async with try_advisory_lock(one, 7) as again:
            assert again is not None
        assert await two.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7") == 0


async def _is_free(pool: "asyncpg.Pool[asyncpg.Record]") -> bool:
    async with try_advisory_lock(pool, 7) as holder:
        return holder is not None


async def test_events_are_projected_and_the_projection_rebuilt(
    pgbouncer: PgBouncer, database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    settings = audit_settings(
        database,
        kafka,
        tmp_path,
        postgres_dsn=pgbouncer.before(database.dsn("flotilla_audit")),
    )
    await publish(settings, events_of("s1", (1, 2, 3)))
    async with running_audit(settings):

        async def arrived() -> bool:
            return await projected.seqs("s1") == [1, 2, 3]

        await eventually(arrived, timeout_s=30)
        rebuilt = await asyncio.gather(
            rebuild_projection(settings), rebuild_projection(settings), return_exceptions=True
        )
    done = [outcome for outcome in rebuilt if isinstance(outcome, dict)]
    assert done
    assert all(outcome["events"] == 3 for outcome in done)
    assert [str(each) for each in rebuilt if not isinstance(each, dict)] in (
        [],
        ["another rebuild is running: wait for its end (flotilla audit requests shows it)"],
    )
    assert await projected.seqs("s1") == [1, 2, 3]


async def test_a_pooler_that_restarts_is_away_and_reached_again(stack: RunningStack, database: Database) -> None:
    pgbouncer = start_pgbouncer(stack, *ROLES)
    async with open_pool(pgbouncer.before(database.dsn()), application="test") as pool:
        await check_schema(pool)
        pgbouncer.kill()
        with pytest.raises(AWAY):
            await pool.fetchval("SELECT 1")
        pgbouncer.restart()
        await check_schema(pool)
    pgbouncer.stop()


@pytest.mark.parametrize(
    ("settings", "query", "reason"),
    [
        ({}, "", "refuses the settings of a connection .* add pooler=transaction"),
        (
            {"ignore_startup_parameters": "idle_in_transaction_session_timeout"},
            "",
            "in between: add pooler=transaction|does not keep prepared statements .* add pooler=transaction",
        ),
        ({"pool_mode": "statement"}, "pooler=transaction", "set its pool_mode to transaction"),
    ],
    ids=["without the parameter", "where it ignores settings", "in statement mode"],
)
async def test_what_can_not_work_is_refused_with_what_to_change(
    stack: RunningStack, database: Database, settings: dict[str, str], query: str, reason: str
) -> None:
    pgbouncer = start_pgbouncer(stack, *ROLES, **settings)
    async with open_pool(pgbouncer.before(database.dsn(), query), application="test") as pool:
        with pytest.raises(RetryLater, match=reason):
            await check_schema(pool)
    pgbouncer.stop()


@pytest.mark.parametrize("query", ["", "pooler=transaction"])
def test_an_install_through_a_pooler_is_refused(pgbouncer: PgBouncer, database: Database, query: str) -> None:
    with pytest.raises(ConfigurationError, match="give the install the address of PostgreSQL itself"):
        migrate(libpq_dsn(pgbouncer.before(database.superuser_dsn, query)))
