"""A password that changes while a service runs is used by the next connection."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from redis.exceptions import AuthenticationError

from flotilla.bus import connect_redis
from flotilla.bus.announcements import announcement_broker
from flotilla.bus.connection import execute_redis_command
from flotilla.contracts.errors import ConfigurationError
from flotilla.postgres import AWAY, open_pool
from flotilla.postgres.connecting import PostgresConnector, libpq_dsn
from flotilla_devstack import RunningStack
from flotilla_devstack.servers.postgres import PostgresServer


def _as_user(url: str, user: str, file: Path) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}@{host}", query=f"password_file={file}"))


@pytest.fixture
def server(stack: RunningStack) -> Iterator[PostgresServer]:
    running = stack.extra_postgres()
    running.query_as_superuser("CREATE ROLE rotated LOGIN")
    running.set_role_password("rotated", "first")
    yield running
    running.stop()


async def test_postgresqls_password_is_read_at_each_connect(server: PostgresServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    dsn = _as_user(server.dsn(), "rotated", file)
    async with open_pool(dsn, application="rotating", max_size=1) as pool:
        assert await pool.fetchval("SELECT current_user") == "rotated"
        server.set_role_password("rotated", "it's second &?")
        await pool.expire_connections()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await pool.fetchval("SELECT 1")
        file.write_text("it's second &?")
        assert await pool.fetchval("SELECT current_user") == "rotated"
        file.unlink()
        await pool.expire_connections()
        with pytest.raises(AWAY, match="password file"):
            await pool.fetchval("SELECT 1")
    file.write_text("it's second &?")
    with psycopg.connect(libpq_dsn(dsn)) as installer:
        assert installer.execute("SELECT current_user").fetchone() == ("rotated",)


async def test_redis_password_is_read_at_each_connect(redis_url: str, tmp_path: Path) -> None:
    user, file = f"rotated-{uuid4().hex[:8]}", tmp_path / "password"
    file.write_text("first\n")
    url = _as_user(redis_url, user, file)
    async with connect_redis(redis_url) as admin:
        await execute_redis_command(admin, "ACL", "SETUSER", user, "on", ">first", "~*", "+@all")
        async with connect_redis(url) as client:
            assert await execute_redis_command(client, "ACL", "WHOAMI") == user.encode()
            await execute_redis_command(admin, "ACL", "SETUSER", user, "resetpass", ">second")
            await client.connection_pool.disconnect()
            with pytest.raises(AuthenticationError):
                await execute_redis_command(client, "PING")
            file.write_text("second")
            assert await execute_redis_command(client, "ACL", "WHOAMI") == user.encode()

        async def ignore(_: object) -> None:
            """Nothing is announced here."""

        broker = announcement_broker(url, ignore)
        await broker.start()
        assert await broker.ping(timeout=5)
        await broker.stop()
        await execute_redis_command(admin, "ACL", "DELUSER", user)


@pytest.mark.parametrize("connect", [PostgresConnector, libpq_dsn])
def test_a_password_in_both_places_is_refused(connect: type[PostgresConnector], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="take one of them out"):
        connect(f"postgresql://user:secret@host/flotilla?password_file={tmp_path}/password")
