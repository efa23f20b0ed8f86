"""Imports an exported tenant into a fleet that goes on working: all of it in one transaction, or nothing.

Its events go through the fleet's own outbox, so they reach Kafka and the projection as all events do: in order, each
once, with the same bytes, and so the same chain.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import UUID

from flotilla.backup.files import read_compressed_blocks, read_stored
from flotilla.backup.manifest import StoredTable
from flotilla.backup.sealing import read_passphrase, unseal_key_files
from flotilla.backup.settings import TenantImportSettings
from flotilla.backup.table_restore import in_order, read_references
from flotilla.backup.tables import Plain, Progress, connect_without_time_limits, quote_sql_name, quoted_name
from flotilla.backup.tenant_export import KEY_NAME
from flotilla.backup.tenant_manifest import TenantManifest, read_events, read_verified_export
from flotilla.config.signing import load_public_keys
from flotilla.contracts.errors import ConfigurationError, Refused
from flotilla.encryption.keyring import key_context_of_tenant
from flotilla.encryption.providers import open_root_keys
from flotilla.kafka.lanes import lane_of_session

MOVER = "flotilla_mover"
"""The role that may write rows of suspended tenants."""
_EMBEDDINGS = "flotilla.passage_embeddings"
_BATCH = 1_000
_SESSIONS = "flotilla.sessions"
_SELECT_MIGRATIONS_YOYO_MIGRATIONS = "SELECT migration_id FROM flotilla_ops._yoyo_migration"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('flotilla.tenants/' || $1, 0))"
_SELECT_IMPORTED_TENANTS = "SELECT imported_from FROM flotilla_ops.tenants WHERE tenant_id = $1"
_IS_KNOWN = """
SELECT EXISTS (SELECT FROM flotilla_ops.tenants WHERE tenant_id = $1)
    OR EXISTS (SELECT FROM audit.session_heads WHERE tenant_id = $1)
"""
# A tenant is there as soon as it has a person, a key or a session, also where nobody created it by name.
_HAS_ROWS = """
SELECT EXISTS (SELECT FROM flotilla.people WHERE tenant_id = $1)
    OR EXISTS (SELECT FROM flotilla.api_keys WHERE tenant_id = $1)
    OR EXISTS (SELECT FROM flotilla.sessions WHERE tenant_id = $1)
"""
_INSERT_TENANTS = """
INSERT INTO flotilla_ops.tenants (tenant_id, created_by, suspended_by, suspended_at, suspended_for, imported_from)
VALUES ($1, 'import', 'import', now(), 'it was imported, and waits to be resumed', $2)
"""
_LIMITS = (
    "SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)"
)
_IS_THERE = "SELECT to_regclass($1) IS NOT NULL"
_STAGED_EVENTS = """
CREATE TEMP TABLE staged_events (
    lane smallint, session_id text, seq bigint, event_id uuid, body bytea, traceparent text
) ON COMMIT DROP
"""
_INSERT_EVENT_OUTBOX = """
INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body, traceparent)
SELECT lane, $1, session_id, seq, event_id, body, traceparent FROM staged_events ORDER BY session_id, seq
"""
_INSERT_TENANT_KEYS = "INSERT INTO flotilla.tenant_keys (tenant_id, root_id, wrapped_key) VALUES ($1, $2, $3)"
# Columns that number their rows: the next number has to be above those that came.
_NUMBERED = """
SELECT attname AS name, pg_get_serial_sequence($1, attname) AS sequence FROM pg_attribute
WHERE attrelid = $1::regclass AND attidentity <> '' AND NOT attisdropped
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    manifest: TenantManifest
    was_done: bool
    """Whether this export had been imported here before: then nothing was changed."""


async def import_tenant(settings: TenantImportSettings, folder: Path, progress: Progress) -> Imported:
    """Add an exported tenant to a fleet, suspended: `flotilla tenants resume` lets it begin.

    All of the export is checked before anything is changed. Repeating it changes nothing.

    Raises:
        Refused: the export is not what was signed, or the fleet has a tenant of that name, or another schema.
        ConfigurationError: something has to be set differently.
        RetryLater: PostgreSQL does not answer.
    """
    keys = load_public_keys(settings.backup_public_key_file)
    manifest = await asyncio.to_thread(read_verified_export, folder, keys)
    key = await _tenant_key(settings, folder, manifest)
    async with connect_without_time_limits(settings) as connection:
        await _refuse_other_schema(connection, manifest)
        async with connection.transaction():
            await connection.execute(_LIMITS)
            await connection.execute(_LOCK, manifest.tenant_id)
            if await connection.fetchval(_SELECT_IMPORTED_TENANTS, manifest.tenant_id) == manifest.export_id:
                return Imported(manifest, was_done=True)
            await _import(connection, folder, manifest, key, progress)
    return Imported(manifest, was_done=False)


async def _import(
    connection: Plain, folder: Path, manifest: TenantManifest, key: tuple[str, bytes] | None, progress: Progress
) -> None:
    tenant_id = manifest.tenant_id
    is_known = await connection.fetchval(_IS_KNOWN, tenant_id)
    if not is_known:
        await connection.execute(_INSERT_TENANTS, tenant_id, manifest.export_id)
        is_known = await _as_mover(connection, _HAS_ROWS, tenant_id)
    if is_known:
        raise Refused(f"this fleet knows a tenant {tenant_id}: flotilla tenants show {tenant_id}")
    if key is not None:
        await _as_mover(connection, _INSERT_TENANT_KEYS, tenant_id, *key)
    tables = in_order(manifest.tables, await read_references(connection))
    for number, table in enumerate(tables):
        progress(f"table {table.name}", number, len(tables))
        await _put_rows(connection, folder, table, tenant_id)
    await _queue_events(connection, folder, manifest, progress)


async def _put_rows(connection: Plain, folder: Path, table: StoredTable, tenant_id: str) -> None:
    if not table.rows:
        return
    if not await connection.fetchval(_IS_THERE, table.name):
        if table.name == _EMBEDDINGS:  # only where PostgreSQL has pgvector; they are computed again, elsewhere or never
            return
        raise Refused(f"the schema has no table {table.name}, which the export has rows of")
    # COPY is not for tables whose rows are limited, so the rows are taken from one that is not.
    await connection.execute(f"CREATE TEMP TABLE staged (LIKE {quoted_name(table.name)}) ON COMMIT DROP")
    await connection.execute(f"GRANT SELECT ON staged TO {MOVER}")
    await connection.copy_to_table(
        "staged",
        schema_name="pg_temp",
        columns=table.columns,
        source=_each(read_compressed_blocks(folder, table.file)),
        format="text",
        timeout=None,
    )
    if await connection.fetchval("SELECT EXISTS (SELECT FROM staged WHERE tenant_id IS DISTINCT FROM $1)", tenant_id):
        raise Refused(f"the export of tenant {tenant_id} has rows of another tenant in {table.name}")
    columns = ", ".join(map(quote_sql_name, table.columns))
    # A fork's row looks its parent up.
    order = " ORDER BY cardinality(ancestors)" if table.name == _SESSIONS else ""
    into = f"INSERT INTO {quoted_name(table.name)} ({columns}) OVERRIDING SYSTEM VALUE"
    await _as_mover(connection, f"{into} SELECT {columns} FROM staged{order}")  # noqa: S608 - quoted
    for numbered in await connection.fetch(_NUMBERED, table.name):
        await _number_on(connection, numbered["sequence"], numbered["name"])
    await connection.execute("DROP TABLE staged")


async def _number_on(connection: Plain, sequence: str, column: str) -> None:
    last = await connection.fetchval(f"SELECT max({quote_sql_name(column)}) FROM staged")  # noqa: S608 - quoted
    await connection.execute(f"SELECT setval('{sequence}', $1) FROM {sequence} WHERE last_value < $1", last)  # noqa: S608 - of the catalog


async def _queue_events(connection: Plain, folder: Path, manifest: TenantManifest, progress: Progress) -> None:
    await connection.execute(_STAGED_EVENTS)
    await connection.execute(f"GRANT SELECT ON staged_events TO {MOVER}")
    done = 0
    events = _outbox_rows(folder, manifest)
    while batch := list(islice(events, _BATCH)):
        await connection.copy_records_to_table("staged_events", records=batch, timeout=None)
        done += len(batch)
        progress("events", done, manifest.events.rows)
    await _as_mover(connection, _INSERT_EVENT_OUTBOX, manifest.tenant_id)


def _outbox_rows(folder: Path, manifest: TenantManifest) -> Iterator[tuple[object, ...]]:
    for event in read_events(folder, manifest):
        lane = lane_of_session(manifest.tenant_id, event.session_id)
        yield lane, event.session_id, event.seq, UUID(event.event_id), event.body, event.traceparent


async def _as_mover(connection: Plain, statement: str, *arguments: object) -> object:
    """Execute a statement with the rights of the role that row level security keeps to suspended tenants.

    Returns its first value, if it has one.
    """
    await connection.execute(f"SET LOCAL ROLE {MOVER}")
    value: object = await connection.fetchval(statement, *arguments)
    await connection.execute("RESET ROLE")
    return value


async def _refuse_other_schema(connection: Plain, manifest: TenantManifest) -> None:
    applied = {row["migration_id"] for row in await connection.fetch(_SELECT_MIGRATIONS_YOYO_MIGRATIONS)}
    if applied != set(manifest.migrations):
        raise Refused(
            "the two fleets have different versions, so nothing was changed: upgrade the older one, and export again "
            f"(migrations of one only: {', '.join(sorted(applied ^ set(manifest.migrations)))})"
        )


async def _tenant_key(
    settings: TenantImportSettings, folder: Path, manifest: TenantManifest
) -> tuple[str, bytes] | None:
    """The id of the root key and the tenant's key that it wraps; None where nothing is encrypted.

    Raises:
        ConfigurationError: the tenant's key can't be opened or wrapped here.
        Invalid: the passphrase is another one.
    """
    if manifest.key is None:
        return None
    if (roots := open_root_keys(settings)) is None:
        raise ConfigurationError(
            f"tenant {manifest.tenant_id} is encrypted: set FLOTILLA_ENCRYPTION_KEY_FILE to this fleet's root keys"
        )
    context = key_context_of_tenant(manifest.tenant_id)
    if manifest.key.sealed is not None:
        if settings.backup_passphrase_file is None:
            raise ConfigurationError("the tenant's key is encrypted: set FLOTILLA_BACKUP_PASSPHRASE_FILE")
        sealed, passphrase = read_stored(folder, manifest.key.sealed), read_passphrase(settings.backup_passphrase_file)
        key = (await asyncio.to_thread(unseal_key_files, sealed, passphrase, manifest.export_id))[KEY_NAME]
    else:
        assert manifest.key.wrapped_key is not None  # noqa: S101 - one of the two
        key = await roots.unwrap(manifest.key.root_id, manifest.key.wrapped_key, context)
    return roots.current_id, await roots.wrap(key, context)


async def _each(found: Iterator[bytes]) -> AsyncIterator[bytes]:
    for block in found:
        yield block
