"""Copies PostgreSQL's tables, all of them as of one snapshot, with no more rights than to read.

The schema is not copied: migrations make it. COPY in text format is what pg_dump uses, too: it is the same for all
versions and needs no program beside the driver.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from flotilla.backup.files import new_compressed_file
from flotilla.backup.manifest import StoredTable
from flotilla.config import PostgresSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.postgres.connecting import PostgresConnector

Progress: TypeAlias = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is; 0 where that is not known."""
Plain: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SCHEMAS = ("flotilla", "flotilla_ops", "audit", "audit_next")
LEFT_OUT = frozenset(
    {
        "flotilla.sign_ins",
        "flotilla.browser_tokens",
        "flotilla_ops.restores",
        "flotilla_ops.restored_tables",
    }
)
"""Logins that are under way: people log in again. And the progress of a restore."""

# Each table with its columns, and in the order of its key: the history of a session is then read as it is chained.
_TABLES = """
SELECT format('%s.%s', n.nspname, c.relname) AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
    coalesce((SELECT array_agg(k.attname::text ORDER BY i.place)
        FROM pg_index AS x CROSS JOIN unnest(x.indkey) WITH ORDINALITY AS i (attnum, place)
        JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum = i.attnum
        WHERE x.indrelid = c.oid AND x.indisprimary), '{}') AS key
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
GROUP BY c.oid, n.nspname, c.relname ORDER BY name
"""
_SEQUENCES = """
SELECT format('%s.%s', schemaname, sequencename) AS name, last_value FROM pg_sequences
WHERE schemaname = ANY ($1) AND last_value IS NOT NULL
"""
_SELECT_MIGRATIONS_YOYO_MIGRATIONS = "SELECT migration_id FROM flotilla_ops._yoyo_migration ORDER BY migration_id"
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LIMITS = (
    "SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)"
)
_GONE = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError)
"""Also a disk that is full there."""
_POINT = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A transaction that sees the database as it was at one point."""

    connection: Plain
    point: str
    migrations: list[str]


@asynccontextmanager
async def connect_without_time_limits(settings: PostgresSettings) -> AsyncIterator[Plain]:
    """A connection without the time limits of services: copying a table takes as long as it takes.

    Raises:
        RetryLater: PostgreSQL does not answer, refuses the login, or ends the connection.
    """
    connector = PostgresConnector(settings.postgres_dsn.get_secret_value(), settings.postgres_ca_file)
    try:
        connection = await connector(server_settings={"application_name": "flotilla-backup"})
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise RetryLater(
            f"PostgreSQL does not answer: {str(error) or type(error).__name__} (check FLOTILLA_POSTGRES_DSN)"
        ) from error
    try:
        yield connection
    except (*_GONE, asyncpg.InterfaceError) as error:
        raise RetryLater(f"PostgreSQL ended the copying: {error}. Repeat it once that is resolved") from error
    finally:
        await connection.close()


@asynccontextmanager
async def snapshot_transaction(connection: Plain) -> AsyncIterator[Snapshot]:
    """Everything that is read in the block is as of its beginning.

    Raises:
        ConfigurationError: the database is not a fleet's, or the role may not read all of it.
    """
    await connection.execute(_BEGIN)
    try:
        await connection.execute(_LIMITS)
        migrations = [row["migration_id"] for row in await connection.fetch(_SELECT_MIGRATIONS_YOYO_MIGRATIONS)]
        yield Snapshot(connection, await connection.fetchval(_POINT), migrations)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise ConfigurationError(f"the database holds no fleet: {error}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the role of FLOTILLA_POSTGRES_DSN may not read everything: {error}. Use flotilla_backup, or the owner "
            "and `python -m flotilla.install` before"
        ) from error
    finally:
        await connection.execute("ROLLBACK")


async def copy_tables(taken: Snapshot, folder: Path, progress: Progress) -> list[StoredTable]:
    """Write the rows of every table of the fleet into the folder."""
    await _refuse_hidden_rows(taken.connection)
    tables = [row for row in await taken.connection.fetch(_TABLES, SCHEMAS) if is_copied(row["name"])]
    stored = []
    for number, row in enumerate(tables):
        progress(f"table {row['name']}", number, len(tables))
        stored.append(await _copy(taken.connection, folder, row))
    progress("tables", len(tables), len(tables))
    return stored


_OF_A_TENANT = """
SELECT c.oid::regclass::text AS name FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'flotilla'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'tenant_id'
"""


async def copy_tenant_rows(
    taken: Snapshot, folder: Path, tenant_id: str, left_out: Collection[str], progress: Progress
) -> list[StoredTable]:
    """Write one tenant's rows of every table of the schema `flotilla` but those that are `left_out`."""
    await _refuse_hidden_rows(taken.connection)
    names = {row["name"] for row in await taken.connection.fetch(_OF_A_TENANT)} - set(left_out)
    tables = [row for row in await taken.connection.fetch(_TABLES, SCHEMAS) if row["name"] in names]
    stored = []
    for number, row in enumerate(tables):
        progress(f"table {row['name']}", number, len(tables))
        stored.append(await _copy(taken.connection, folder, row, tenant_id))
    return stored


async def copy_tenant_columns(
    connection: Plain, folder: Path, name: str, columns: Sequence[str], tenant_id: str
) -> StoredTable:
    """Write some columns of a tenant's rows of a table, in the order of its sessions and their events."""
    table = {"name": name, "columns": columns, "key": ["session_id", "seq"]}
    return await _copy(connection, folder, table, tenant_id)


async def read_sequences(connection: Plain) -> dict[str, int]:
    """The last number that each sequence gave out: read after the rows, which never have a later one."""
    return {row["name"]: row["last_value"] for row in await connection.fetch(_SEQUENCES, SCHEMAS)}


def is_copied(table: str) -> bool:
    """Whether a table belongs to the backup."""
    return table not in LEFT_OUT and not is_of_migrations(table)


def is_of_migrations(table: str) -> bool:
    """Whether migrations keep their own records in the table."""
    return table.partition(".")[2].startswith(("_yoyo", "yoyo"))


# A table whose rows are limited, and no policy shows all of them to this role.
_HIDDEN = """
SELECT c.oid::regclass::text AS name FROM pg_class AS c
WHERE c.relnamespace = ANY ($1::text[]::regnamespace[]) AND c.relkind IN ('r', 'p') AND row_security_active(c.oid)
    AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'backup'
        AND (SELECT oid FROM pg_roles WHERE rolname = current_user) = ANY (p.polroles))
ORDER BY 1
"""


async def _refuse_hidden_rows(connection: Plain) -> None:
    """Where row level security hides rows, a copy would lack them in silence."""
    hidden = [row["name"] for row in await connection.fetch(_HIDDEN, SCHEMAS) if is_copied(row["name"])]
    if hidden:
        shown = ", ".join(hidden[:5]) + (f" and {len(hidden) - 5} more" if len(hidden) > 5 else "")  # noqa: PLR2004
        raise ConfigurationError(
            f"row level security may hide rows of {shown} from the role of FLOTILLA_POSTGRES_DSN: use flotilla_backup, "
            "after `python -m flotilla.install`"
        )


async def _copy(
    connection: Plain, folder: Path, table: "Mapping[str, Any] | asyncpg.Record", tenant_id: str | None = None
) -> StoredTable:
    """Write a table's rows, or one tenant's of them."""
    columns, name = list(table["columns"]), table["name"]
    where, arguments = ("", ()) if tenant_id is None else (" WHERE tenant_id = $1", (tenant_id,))
    order = f" ORDER BY {', '.join(map(quote_sql_name, table['key']))}" if table["key"] else ""
    query = f"SELECT {', '.join(map(quote_sql_name, columns))} FROM {quoted_name(name)}{where}{order}"  # noqa: S608 - quoted
    with new_compressed_file(folder, f"postgres/{name}.copy.gz") as file:

        async def take(data: bytes) -> None:
            file.write(data)

        status = await connection.copy_from_query(query, *arguments, output=take, format="text")
    return StoredTable(name=name, columns=columns, rows=int(status.split()[-1]), file=file.manifest_entry)


def quote_sql_name(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def quoted_name(name: str) -> str:
    """A name with its schema as SQL takes it."""
    return ".".join(quote_sql_name(part) for part in name.split(".", 1))
