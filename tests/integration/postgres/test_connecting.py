"""The primary is found among several hosts, and a server that has gone without a word is given up within seconds."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.postgres import AWAY, Pool, check_schema, connecting, open_pool
from flotilla.postgres.connecting import PostgresConnector, dsn_per_host, libpq_dsn
from flotilla.postgres.migrate import migrate
from flotilla_devstack import RunningStack
from flotilla_devstack.servers.postgres import PostgresServer
from outbox_relay.rows import open_relay_pool
from tests.support.postgres import Database
from tests.support.waiting import busyness, eventually

NOBODY = "127.0.0.1:1"


@pytest.fixture
def other_postgres(stack: RunningStack) -> Iterator[PostgresServer]:
    server = stack.extra_postgres()
    yield server
    server.stop()


@pytest.fixture
async def superuser(database: Database) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database.superuser_dsn)
    yield connection
    await connection.close()


def before(host: str, dsn: str) -> str:
    """The DSN with another host before its own."""
    parts = urlsplit(dsn)
    user, at, own = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host},{own}"))


def test_each_host_of_a_dsn_gets_its_own() -> None:
    assert dsn_per_host("postgresql://u:p@a:1,[::1]:2/d?sslmode=require") == [
        "postgresql://u:p@a:1/d?sslmode=require",
        "postgresql://u:p@[::1]:2/d?sslmode=require",
    ]


async def test_a_host_that_does_not_answer_is_passed_over(database: Database) -> None:
    async with open_pool(before(NOBODY, database.dsn()), application="test") as pool:
        await check_schema(pool)


async def test_a_frozen_first_host_takes_no_longer_than_its_limit(
    database: Database, other_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_S", 1.0)
    other_postgres.pause()
    began = time.monotonic()
    async with open_pool(
        before(urlsplit(other_postgres.dsn()).netloc.rpartition("@")[2], database.dsn()), application="test"
    ) as pool:
        await check_schema(pool)
    assert time.monotonic() - began < 10 * busyness()
    other_postgres.resume()


async def test_a_primary_that_freezes_is_left_for_the_next_host(
    database: Database, other_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tenth of the limits: 12 s for a statement, 2 s for its cancellation, 3 s for each host."""
    for name, limit_s in {"connecting.CONNECT_S": 1.0, "connecting.COMMAND_S": 1.2, "limited._CANCEL_S": 0.2}.items():
        monkeypatch.setattr(f"flotilla.postgres.{name}", limit_s)
    first = urlsplit(other_postgres.dsn())
    dsn = before(
        first.netloc.rpartition("@")[2], urlunsplit(urlsplit(database.superuser_dsn)._replace(path=first.path))
    )
    async with open_pool(dsn, application="test", max_size=4) as pool:
        ports = await asyncio.gather(*(pool.fetchval("SELECT inet_server_port(), pg_sleep(0.1)") for _ in range(4)))
        assert set(ports) == {first.port}
        other_postgres.pause()
        began = time.monotonic()
        with pytest.raises(AWAY):
            await pool.fetchval("SELECT 1")
        # The idle connections to the frozen server are not waited for one after the other.
        assert await pool.fetchval("SELECT inet_server_port()") == urlsplit(database.superuser_dsn).port
        assert time.monotonic() - began < 8 * busyness()
    other_postgres.resume()


async def test_a_primary_that_was_demoted_is_not_ready_and_its_connections_are_replaced(database: Database) -> None:
    async with open_relay_pool(database.dsn("flotilla_relay")) as pool:  # its connections keep what is set
        await pool.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        with pytest.raises(RetryLater, match="accepts no writes"):
            await check_schema(pool)
        await check_schema(pool)


async def test_a_refused_write_replaces_every_connection(pool: Pool) -> None:
    with pytest.raises(AWAY):
        await pool.execute("BEGIN READ ONLY; UPDATE flotilla.runs SET error = NULL")
    async with pool.acquire() as connection:
        pid = connection.get_server_pid()
    with pytest.raises(AWAY):
        await pool.execute("BEGIN READ ONLY; UPDATE flotilla.runs SET error = NULL")

    async def another() -> bool:
        async with pool.acquire() as connection:
            return bool(connection.get_server_pid() != pid)

    await eventually(another)


async def test_a_standby_is_no_host_to_connect_to(
    database: Database, superuser: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    name = urlsplit(database.superuser_dsn).path.removeprefix("/")
    await superuser.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with open_pool(database.dsn(), application="test") as pool:
        with pytest.raises(RetryLater, match="accepts no writes"):
            await check_schema(pool)


async def test_too_many_connections_and_full_disks_are_away(database: Database, pool: Pool) -> None:
    for code in ("53000", "53100", "53200", "53300", "53400", "57P03", "57P05", "58030", "25006", "08006"):
        with pytest.raises(AWAY):
            await pool.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '{code}'; END $$")


async def test_a_connection_whose_peer_falls_silent_is_ended_by_the_kernel(pool: Pool) -> None:
    async with pool.acquire() as connection:
        opened = connection._con._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8_000
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


async def test_a_ca_file_needs_a_mode_that_verifies() -> None:
    with pytest.raises(ConfigurationError, match="sslmode=verify-full"):
        PostgresConnector("postgresql://u@h/d", "ca.pem")
    with pytest.raises(ConfigurationError, match="can't be read"):
        PostgresConnector("postgresql://u@h/d?sslmode=verify-full", "/nowhere/ca.pem")
    PostgresConnector("postgresql://u@h/d?sslmode=verify-full")


def test_libpq_gets_a_certificate_store_only_where_it_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_S", 3.0)
    assert libpq_dsn("postgresql://u@h/d") == "postgresql://u@h/d?target_session_attrs=read-write&connect_timeout=3"
    assert "sslrootcert=/ca.pem" in libpq_dsn("postgresql://u@h/d?sslmode=verify-full", "/ca.pem")
    own = "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/own.pem&target_session_attrs=any&connect_timeout=9"
    assert libpq_dsn(own, "/ca.pem") == own


def test_migrations_run_through_a_dsn_of_several_hosts(database: Database) -> None:
    assert migrate(libpq_dsn(before(NOBODY, database.superuser_dsn))) == []


async def test_an_install_that_finds_the_lock_taken_gives_up_and_leaves_no_lock(
    database: Database, superuser: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flotilla.postgres.migrate._LOCK_S", 1)
    locks = """
    SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
    WHERE locktype = 'advisory' AND datname = current_database()
    """
    async with superuser.transaction():
        await superuser.execute("SELECT pg_advisory_xact_lock(1718382452)")
        with pytest.raises(Exception, match="lock timeout"):
            await asyncio.to_thread(migrate, database.superuser_dsn)
    assert await asyncio.to_thread(migrate, database.superuser_dsn) == []
    assert await superuser.fetchval(locks) == 0
