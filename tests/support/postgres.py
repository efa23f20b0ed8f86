"""A fresh database per test, cloned from one that is migrated once per run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from flotilla.postgres import Pool
from flotilla.postgres.migrate import migrate
from flotilla_devstack.servers.postgres import SUPERUSER


@dataclass(frozen=True)
class Database:
    """One database of the test server; any of the fleet's roles can log in."""

    superuser_dsn: str

    def dsn(self, role: str = "flotilla_app") -> str:
        """The DSN for `role`; flotilla_app, which tests look around with, is the role of former versions."""
        parts = urlsplit(self.superuser_dsn)
        return urlunsplit(parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}"))


def with_database(dsn: str, name: str) -> str:
    """The same server and user, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def make_template(server_dsn: str, name: str) -> None:
    """A migrated database that others are cloned from."""
    await _execute(server_dsn, f'CREATE DATABASE "{name}"')
    database = with_database(server_dsn, name)
    migrate(database)
    for agent in ("research", "write", "mcp", "adder"):
        await create_agent_role(database, agent)


async def create_agent_role(owner_dsn: str, agent: str) -> str:
    """The agent's role, as the installer makes it; roles belong to the server, not to the database."""
    return str(await _execute(owner_dsn, "SELECT flotilla_ops.create_agent_role($1)", agent))


async def dsn_beside(pool: Pool, role: str) -> str:
    """The DSN for another role in the database of `pool`."""
    port, database = await pool.fetchrow("SELECT inet_server_port(), current_database()")  # type: ignore[misc]
    return f"postgresql://{quote(role, safe='')}@127.0.0.1:{port}/{database}"


async def agent_dsn(pool: Pool, agent: str) -> str:
    """The DSN for the agent's own role in the database of `pool`."""
    return await dsn_beside(pool, await create_agent_role(await dsn_beside(pool, SUPERUSER), agent))


@asynccontextmanager
async def cloned(server_dsn: str, template: str, name: str) -> AsyncIterator[Database]:
    """A copy of `template` that lives as long as the block."""
    # Copying files is a third of the work of writing every block to the log; nothing here is synced.
    await _execute(server_dsn, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    try:
        yield Database(with_database(server_dsn, name))
    finally:
        await drop(server_dsn, name)


async def drop(server_dsn: str, name: str) -> None:
    """Drops a database, its connections included."""
    await _execute(server_dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _execute(dsn: str, statement: str, *arguments: object) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()
