"""Puts rows back into the tables of an empty fleet: each table in one transaction, so that a killed restore goes on.

It runs as the owner of the schema. Row level security and triggers are turned off for a table while its rows are put
back, in the transaction that does it: they judge what a service writes, and these rows passed them before.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from flotilla.backup.files import read_compressed_blocks
from flotilla.backup.manifest import Manifest, StoredTable
from flotilla.backup.tables import SCHEMAS, Plain, Progress, is_of_migrations, quoted_name
from flotilla.contracts.errors import Conflict, Refused
from flotilla.postgres.schema import MIGRATIONS

MADE_BY_INSTALL = frozenset({"flotilla.people", "flotilla.api_keys", "flotilla.accounts"})
_OWN_STATE = frozenset({"flotilla_ops.restores", "flotilla_ops.restored_tables"})
_EMBEDDINGS = "flotilla.passage_embeddings"
"""Only where PostgreSQL has pgvector; without it they are computed again, elsewhere or never."""
_LOCK_KEY = 0x72657374  # "rest"
_SHOWN = 8

_LOCKED = "SELECT pg_try_advisory_lock($1)"
_TABLES = """
SELECT format('%s.%s', schemaname, tablename) AS name, rowsecurity, c.relforcerowsecurity AS forced
FROM pg_tables JOIN pg_class AS c ON c.oid = format('%I.%I', schemaname, tablename)::regclass
WHERE schemaname = ANY ($1) AND NOT c.relispartition ORDER BY name
"""
_SELECT_APPLIED_YOYO_MIGRATIONS = "SELECT migration_id FROM flotilla_ops._yoyo_migration"
_HAS_SCHEMA = "SELECT to_regclass('flotilla_ops._yoyo_migration') IS NOT NULL"
_SERVICES = r"""
SELECT DISTINCT usename || coalesce(' (' || nullif(application_name, '') || ')', '') AS name FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename LIKE 'flotilla\_%' ORDER BY 1
"""
_SELECT_STATE_RESTORES = "SELECT backup_id, manifest_sha256, finished_at FROM flotilla_ops.restores"
_HAS_BEGUN = "SELECT EXISTS (SELECT FROM flotilla_ops.restores WHERE backup_id = $1)"
_BEGIN_RESTORES = "INSERT INTO flotilla_ops.restores (backup_id, manifest_sha256) VALUES ($1, $2)"
_SELECT_DONE_RESTORED_TABLES = "SELECT table_name FROM flotilla_ops.restored_tables WHERE backup_id = $1"
_MARK_RESTORED_TABLES = "INSERT INTO flotilla_ops.restored_tables VALUES ($1, $2, $3)"
_FINISH_RESTORES = "UPDATE flotilla_ops.restores SET finished_at = now() WHERE backup_id = $1 AND finished_at IS NULL"
# A table after those that its rows refer to.
_REFERENCES = """
SELECT DISTINCT format('%s.%s', n.nspname, c.relname) AS name, format('%s.%s', rn.nspname, r.relname) AS refers_to
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS r ON r.oid = k.confrelid JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
WHERE k.contype = 'f' AND n.nspname = ANY ($1) AND k.conrelid <> k.confrelid
"""


class RestoredTables:
    """The tables of the database that a backup goes into."""

    def __init__(self, connection: Plain, folder: Path, manifest: Manifest, manifest_sha256: str) -> None:
        self._connection = connection
        self._folder = folder
        self._manifest = manifest
        self._sha256 = manifest_sha256

    @asynccontextmanager
    async def hold_restore_lock(self) -> AsyncIterator[None]:
        """No other restore goes on in this database during the block.

        Raises:
            Conflict: one does.
        """
        if not await self._connection.fetchval(_LOCKED, _LOCK_KEY):
            raise Conflict("another restore into this database is under way")
        yield

    async def refuse_other_schema(self) -> None:
        """Return if the database has no schema yet, or the backup's.

        Raises:
            Refused: it has another one, or this version does not know the backup's.
        """
        wanted = set(self._manifest.migrations)
        if unknown := wanted - {path.stem for path in MIGRATIONS.glob("*.sql")}:
            raise Refused(
                f"the backup has migration {max(unknown)}, which this version does not know: restore with the version "
                "that created it, or a newer one"
            )
        if not await self._connection.fetchval(_HAS_SCHEMA):
            return
        applied = {row["migration_id"] for row in await self._connection.fetch(_SELECT_APPLIED_YOYO_MIGRATIONS)}
        if other := applied - wanted:
            raise Refused(
                f"the database has a newer schema than the backup ({max(other)}): give an empty database. The restore "
                "makes the backup's schema, and `python -m flotilla.install` upgrades it afterwards"
            )

    async def finished_at(self) -> str | None:
        """When this backup was restored here; None where it was not, or only in part.

        Raises:
            Refused: the fleet is not empty.
        """
        states = await self._connection.fetch(_SELECT_STATE_RESTORES)
        if mine := next((row for row in states if row["backup_id"] == self._manifest.backup_id), None):
            if mine["manifest_sha256"] != self._sha256:
                raise Refused("another backup with the same id is being restored here")
            return mine["finished_at"].isoformat() if mine["finished_at"] else None
        await self._refuse_what_is_there(states)
        return None

    async def has_begun(self) -> bool:
        """Whether this restore was begun before, and is to go on."""
        return bool(await self._connection.fetchval(_HAS_BEGUN, self._manifest.backup_id))

    async def refuse_services(self) -> None:
        """Return if no service is connected to the database.

        Raises:
            Refused: one is.
        """
        if found := await self._connected_services():
            raise Refused(f"the database has {', '.join(found[:_SHOWN])}: stop the services, then repeat the restore")

    async def begin_restore(self) -> None:
        """Empty the tables, and write down that this restore has begun."""
        tables = [row["name"] for row in await self._tables() if row["name"] not in _OWN_STATE]
        async with self._connection.transaction():
            await self._connection.execute(f"TRUNCATE {', '.join(map(quoted_name, tables))}")
            await self._connection.execute(_BEGIN_RESTORES, self._manifest.backup_id, self._sha256)

    async def restore_rows(self, progress: Progress) -> None:
        """Put the rows of every table back that has not got them yet.

        Raises:
            Refused: a table or column of the backup is missing.
        """
        present = {row["name"]: row for row in await self._tables()}
        done = {
            row["table_name"]
            for row in await self._connection.fetch(_SELECT_DONE_RESTORED_TABLES, self._manifest.backup_id)
        }
        tables = in_order(self._manifest.tables, await read_references(self._connection))
        for number, table in enumerate(tables):
            progress(f"table {table.name}", number, len(tables))
            if table.name in done or (table.name == _EMBEDDINGS and table.name not in present):
                continue
            if table.name not in present:
                raise Refused(f"the schema has no table {table.name}, which the backup has rows of")
            await self._restore(table, present[table.name])
        progress("tables", len(tables), len(tables))

    async def finish_restore(self) -> None:
        """Let sequences go on behind what they gave out, and write down that the restore is complete."""
        async with self._connection.transaction():
            for name, value in self._manifest.sequences.items():
                await self._connection.execute("SELECT setval($1::text::regclass, $2)", quoted_name(name), value)
            await self._connection.execute(_FINISH_RESTORES, self._manifest.backup_id)

    async def _restore(self, table: StoredTable, present: asyncpg.Record) -> None:
        name = quoted_name(table.name)
        async with self._connection.transaction():
            await self._connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER")
            if present["forced"]:
                await self._connection.execute(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")
            status = await self._copy(table)
            if present["forced"]:
                await self._connection.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
            await self._connection.execute(f"ALTER TABLE {name} ENABLE TRIGGER USER")
            if (count := int(status.split()[-1])) != table.rows:
                raise Refused(f"{table.name} took {count} rows, the backup has {table.rows}")
            await self._connection.execute(_MARK_RESTORED_TABLES, self._manifest.backup_id, table.name, count)

    async def _copy(self, table: StoredTable) -> str:
        schema, _, name = table.name.partition(".")
        return await self._connection.copy_to_table(
            name,
            schema_name=schema,
            columns=table.columns,
            source=_each(read_compressed_blocks(self._folder, table.file)),
            format="text",
            timeout=None,
        )

    async def _tables(self) -> Sequence[asyncpg.Record]:
        return [row for row in await self._connection.fetch(_TABLES, SCHEMAS) if not is_of_migrations(row["name"])]

    async def _connected_services(self) -> list[str]:
        return [f"connections of {row['name']}" for row in await self._connection.fetch(_SERVICES)]

    async def _refuse_what_is_there(self, states: Sequence[asyncpg.Record]) -> None:
        found = [f"backup {row['backup_id']}, restored before" for row in states]
        for row in await self._tables():
            name: str = row["name"]
            if name in MADE_BY_INSTALL or name.startswith("flotilla_ops."):  # what registers itself
                continue
            if count := await self._connection.fetchval(f"SELECT count(*) FROM {quoted_name(name)}"):  # noqa: S608 - quoted
                found.append(f"{count} rows in {name}")
        found += await self._connected_services()
        if found:
            shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
            raise Refused(f"the fleet is not empty, so nothing was changed. The database has {shown}")


async def read_references(connection: Plain) -> dict[str, set[str]]:
    """Which tables the rows of each table refer to."""
    found: dict[str, set[str]] = {}
    for row in await connection.fetch(_REFERENCES, SCHEMAS):
        found.setdefault(row["name"], set()).add(row["refers_to"])
    return found


def in_order(tables: Iterable[StoredTable], references: Mapping[str, set[str]]) -> list[StoredTable]:
    """The tables so that each comes after those that its rows refer to.

    Raises:
        Refused: they refer to each other in a circle.
    """
    left = {table.name: table for table in tables}
    ordered: list[StoredTable] = []
    while left:
        ready = [name for name in left if not references.get(name, set()) & (left.keys() - {name})]
        if not ready:
            raise Refused(f"tables refer to each other in a circle: {', '.join(sorted(left))}")
        ordered += [left.pop(name) for name in ready]
    return ordered


async def _each(found: Iterable[bytes]) -> AsyncIterator[bytes]:
    for block in found:
        yield block
