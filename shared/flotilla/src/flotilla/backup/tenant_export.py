"""Exports one suspended tenant of a fleet that goes on working: its rows, its events and its key, at one point."""

import asyncio
from pathlib import Path

from flotilla.backup.create import finish_backup, new_backup_folder
from flotilla.backup.files import stored_as_it_is
from flotilla.backup.sealing import read_passphrase, seal
from flotilla.backup.settings import TenantExportSettings
from flotilla.backup.tables import (
    LEFT_OUT,
    Plain,
    Progress,
    connect_without_time_limits,
    copy_tenant_columns,
    copy_tenant_rows,
    snapshot_transaction,
)
from flotilla.backup.tenant_manifest import (
    EVENT_COLUMNS,
    EVENTS,
    HEAD_COLUMNS,
    HEADS,
    StoredTenantKey,
    TenantManifest,
)
from flotilla.config.signing import load_signer
from flotilla.contracts.errors import ConfigurationError, Refused
from flotilla.contracts.ids import new_id, utc_now
from flotilla.encryption.keyring import key_context_of_tenant
from flotilla.encryption.providers import open_root_keys

KEY_NAME = "tenant-key"
NOT_MOVED = LEFT_OUT | {
    "flotilla.event_outbox",
    "flotilla.outbox_parked",
    "flotilla.tenant_keys",
    "flotilla.outside_vectors",
}
"""Events come from the projection, the key by itself; vectors in another store are computed again."""
SETTLED_S = 60.0
"""A request that was let through before the suspension has ended by then."""
_SHOWN = 5
# For how long it has been suspended; NULL where it is not.
_SUSPENDED_S = """
SELECT extract(epoch FROM now() - suspended_at)::float8 FROM flotilla_ops.tenants
WHERE tenant_id = $1 AND deletion_confirmed_at IS NULL
"""
# What Temporal has a part in. What was requested and did not begin, or waits in a queue, begins in the other fleet.
_OPEN_WORK = """
SELECT (SELECT count(*) FROM flotilla.runs WHERE tenant_id = $1 AND status IN ('running', 'interrupted'))
    + (SELECT count(*) FROM flotilla.actions WHERE tenant_id = $1 AND finished_at IS NULL AND status <> 'pending')
    + (SELECT count(*) FROM flotilla.orders WHERE tenant_id = $1 AND finished_at IS NULL AND started_at IS NOT NULL)
    + (SELECT count(*) FROM flotilla.pipelines WHERE tenant_id = $1 AND finished_at IS NULL AND status <> 'pending')
"""
# Try 0, a call that was made at once, stays open where it ended without an answer and no try came after it. The longest
# call takes 4000 s beyond the deadline.
_GIVEN_OUT = """
SELECT count(*) FROM flotilla.delegations
WHERE tenant_id = $1 AND state = 'open' AND (attempt > 0 OR now() < deadline + interval '2 hours')
"""
# Sessions whose projected history is not all of what was committed, or not undisputed.
_SELECT_UNSETTLED_SESSIONS = """
SELECT s.session_id FROM flotilla.sessions AS s
LEFT JOIN audit.session_heads AS h USING (tenant_id, session_id)
WHERE s.tenant_id = $1 AND s.head_seq > coalesce(s.forked_at_seq, 0) AND s.head_seq IS DISTINCT FROM h.seq
UNION
SELECT p.session_id FROM audit.parked_events AS p
WHERE p.tenant_id = $1 AND p.reason <> 'discarded' AND p.session_id IS NOT NULL
ORDER BY session_id
"""
_SELECT_ARCHIVED_SESSION_HEADS = "SELECT count(*) FROM audit.session_heads WHERE tenant_id = $1 AND archived_seq > 0"
_SELECT_TENANT_KEYS = "SELECT root_id, wrapped_key FROM flotilla.tenant_keys WHERE tenant_id = $1"


async def export_tenant(
    settings: TenantExportSettings,
    tenant_id: str,
    to: Path,
    progress: Progress,
    *,
    with_open_work: bool = False,
    settled_s: float = SETTLED_S,
) -> TenantManifest:
    """Write a tenant into a new folder, signed, once it has been suspended for `settled_s`. Nothing is changed; other
    tenants go on.

    Raises:
        Refused: the folder exists; the tenant is not suspended, has work under way or events that are not projected.
        ConfigurationError: something has to be set differently.
        RetryLater: PostgreSQL does not answer.
    """
    signer = load_signer(settings.backup_signing_key_file)
    with new_backup_folder(to) as folder:
        async with connect_without_time_limits(settings) as connection:
            await _wait_until_settled(connection, tenant_id, settled_s, progress)
            async with snapshot_transaction(connection) as taken:
                open_work = await _refuse_unsettled(connection, tenant_id, with_open_work=with_open_work)
                export_id = new_id()
                manifest = TenantManifest(
                    export_id=export_id,
                    tenant_id=tenant_id,
                    created_at=utc_now().isoformat(),
                    point=taken.point,
                    migrations=taken.migrations,
                    tables=await copy_tenant_rows(taken, folder, tenant_id, NOT_MOVED, progress),
                    events=await copy_tenant_columns(connection, folder, EVENTS, EVENT_COLUMNS, tenant_id),
                    heads=await copy_tenant_columns(connection, folder, HEADS, HEAD_COLUMNS, tenant_id),
                    key=await _key(settings, connection, folder, tenant_id, export_id),
                    open_work=open_work,
                )
        finish_backup(folder, manifest, signer, to)
    return manifest


async def _wait_until_settled(connection: Plain, tenant_id: str, settled_s: float, progress: Progress) -> None:
    """Wait until the tenant has been suspended for so long.

    Raises:
        Refused: it is not suspended.
    """
    while (since_s := await connection.fetchval(_SUSPENDED_S, tenant_id)) is not None:
        if since_s >= settled_s:
            return
        progress("waiting until requests from before the suspension have ended", int(since_s), int(settled_s))
        await asyncio.sleep(min(1.0, settled_s - since_s))
    raise Refused(
        f"tenant {tenant_id} is not suspended: flotilla tenants suspend {tenant_id} --finish-runs --reason 'it moves'"
    )


async def _refuse_unsettled(connection: Plain, tenant_id: str, *, with_open_work: bool) -> int:
    """Return how much work is under way that will end.

    Raises:
        Refused: something may still be written of the tenant, or its history is not settled.
    """
    if given_out := await connection.fetchval(_GIVEN_OUT, tenant_id):
        raise Refused(f"agents work on {given_out} tasks of tenant {tenant_id}: repeat it when they have ended")
    open_work: int = await connection.fetchval(_OPEN_WORK, tenant_id)
    if open_work and not with_open_work:
        raise Refused(
            f"tenant {tenant_id} has {open_work} runs, actions, orders or tasks under way. Resume it and suspend it "
            "with --finish-runs, so that they end; or export it with --with-open-work: then they end in the other "
            "fleet, with a reason"
        )
    unsettled = [row["session_id"] for row in await connection.fetch(_SELECT_UNSETTLED_SESSIONS, tenant_id)]
    if unsettled:
        raise Refused(
            f"{len(unsettled)} sessions of tenant {tenant_id} have events that are not projected "
            f"({', '.join(unsettled[:_SHOWN])}): repeat it in a moment, or look at flotilla outbox status and flotilla "
            "audit parked list"
        )
    if archived := await connection.fetchval(_SELECT_ARCHIVED_SESSION_HEADS, tenant_id):
        raise Refused(
            f"{archived} sessions of tenant {tenant_id} are archived: restore them first (flotilla audit archives, "
            "flotilla audit restore)"
        )
    return open_work


async def _key(
    settings: TenantExportSettings, connection: Plain, folder: Path, tenant_id: str, export_id: str
) -> StoredTenantKey | None:
    row = await connection.fetchrow(_SELECT_TENANT_KEYS, tenant_id)
    if row is None:
        return None
    if (roots := open_root_keys(settings)) is None:
        return StoredTenantKey(root_id=row["root_id"], wrapped_key=row["wrapped_key"], sealed=None)
    if settings.backup_passphrase_file is None:
        raise ConfigurationError(
            "with root keys the export holds the tenant's key, encrypted: set FLOTILLA_BACKUP_PASSPHRASE_FILE, too"
        )
    passphrase = read_passphrase(settings.backup_passphrase_file)
    key = await roots.unwrap(row["root_id"], row["wrapped_key"], key_context_of_tenant(tenant_id))
    sealed = stored_as_it_is(
        folder, "keys/tenant", await asyncio.to_thread(seal, {KEY_NAME: key}, passphrase, export_id)
    )
    return StoredTenantKey(root_id=row["root_id"], wrapped_key=None, sealed=sealed)
