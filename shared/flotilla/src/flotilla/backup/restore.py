"""Restores a backup into an empty fleet whose services do not run; a killed restore goes on when it is repeated."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import psycopg

from flotilla.backup.files import read_stored
from flotilla.backup.manifest import Manifest, SignedManifest, read_manifest
from flotilla.backup.other_work import refuse_work
from flotilla.backup.private_files import OWNER_ONLY_FOLDER, put_private
from flotilla.backup.sealing import read_passphrase, unseal_key_files
from flotilla.backup.settings import RestoreSettings
from flotilla.backup.table_restore import RestoredTables
from flotilla.backup.tables import Progress, connect_without_time_limits
from flotilla.backup.topic_restore import RestoredTopics
from flotilla.backup.verify import check_files
from flotilla.config.signing import load_public_keys
from flotilla.contracts.errors import Refused, RetryLater
from flotilla.postgres.connecting import libpq_dsn
from flotilla.postgres.migrate import migrate


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    manifest: Manifest
    was_done: bool
    """Whether it had been restored here before: then nothing was changed."""
    keys: list[Path]
    """The key files that were written."""


async def restore_backup(
    settings: RestoreSettings, folder: Path, progress: Progress, *, verified: SignedManifest | None = None
) -> Restored:
    """Make the fleet that the backup holds. All of it is checked before anything is changed, unless the caller has done
    so: `verified` is what `read_verified_manifest` returned. Each file is checked again as it is read.

    Raises:
        Refused: the backup is not what was signed, or the fleet is not empty.
        Conflict: another restore is under way.
        RetryLater: a server does not answer.
        ConfigurationError: something has to be set differently.
    """
    signed = verified
    if signed is None:
        signed = await asyncio.to_thread(read_verified_manifest, settings, folder, progress)
    keys = _opened_keys(settings, folder, signed.manifest)
    async with connect_without_time_limits(settings) as connection:
        tables = RestoredTables(connection, folder, signed.manifest, signed.sha256)
        topics = RestoredTopics(settings, folder, signed.manifest)
        async with tables.hold_restore_lock():
            done = await _restore(settings, signed.manifest, tables, topics, progress)
    return Restored(signed.manifest, done, _write_keys(settings, folder, signed.manifest, keys))


async def _restore(
    settings: RestoreSettings, manifest: Manifest, tables: RestoredTables, topics: RestoredTopics, progress: Progress
) -> bool:
    await tables.refuse_other_schema()
    await asyncio.to_thread(_make_schema, settings, manifest)
    if await tables.finished_at() is not None:
        return True
    await topics.create_missing_topics()
    if not await tables.has_begun():
        await topics.refuse_records()
        await refuse_work(settings)
        await tables.begin_restore()
    else:
        await tables.refuse_services()
    await tables.restore_rows(progress)
    await topics.restore_records(progress)
    await tables.finish_restore()
    return False


def read_verified_manifest(settings: RestoreSettings, folder: Path, progress: Progress) -> SignedManifest:
    """The manifest of a backup whose signature and hashes hold.

    Raises:
        Refused: they do not.
    """
    signed = read_manifest(folder, load_public_keys(settings.backup_public_key_file))
    verdict = check_files(folder, signed, progress)
    if not verdict.ok:
        raise Refused(f"the backup is not what was signed, so nothing was changed: {'; '.join(verdict.problems)}")
    return signed


def _make_schema(settings: RestoreSettings, manifest: Manifest) -> None:
    try:
        migrate(libpq_dsn(settings.postgres_dsn.get_secret_value(), settings.postgres_ca_file), manifest.migrations)
    except psycopg.OperationalError as error:
        raise RetryLater(f"PostgreSQL does not answer: {str(error).splitlines()[0]}") from error


def _opened_keys(settings: RestoreSettings, folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The key files, before anything is changed: a wrong passphrase is found out now."""
    if settings.backup_restore_keys_to is None or manifest.sealed_keys is None:
        return {}
    if settings.backup_passphrase_file is None:
        return {}
    sealed = read_stored(folder, manifest.sealed_keys)
    return unseal_key_files(sealed, read_passphrase(settings.backup_passphrase_file), manifest.backup_id)


def _write_keys(settings: RestoreSettings, folder: Path, manifest: Manifest, keys: dict[str, bytes]) -> list[Path]:
    to = settings.backup_restore_keys_to
    if to is None:
        return []
    to.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    public = {Path(stored.name).name: read_stored(folder, stored) for stored in manifest.public_keys}
    written = []
    for name, content in {**public, **keys}.items():
        path = to / Path(name).name
        present = path.read_bytes() if path.exists() else None
        if present in (None, content):
            put_private(path, content)
        elif not (name in public and content.strip() in present):  # public keys may have been added by now
            raise Refused(f"{path} exists, and is another file than the backup's")
        written.append(path)
    return written
