"""Backups of the fleet that the environment names, or of the local stack, with the command's errors."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flotilla.backup import create, restore, tenant_export, tenant_import, verify
from flotilla.backup.settings import BackupSettings, RestoreSettings, TenantExportSettings, TenantImportSettings
from flotilla.config import load_settings
from flotilla.config.signing import PublicKeys, create_key_pair, load_public_keys
from flotilla.contracts.errors import ConfigurationError, FlotillaError, Invalid, Refused
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.local.restored_stack import restored_stack
from flotilla_cli.local.stack import devstack_errors, state_folder
from flotilla_cli.printing import print_notice
from flotilla_devstack import Stack
from flotilla_devstack.folders import StateDir

BACKUP_ROLE = "flotilla_backup"
_EVERY_S = 2.0


class ShownProgress:
    """A line on standard error every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `flotilla.backup.tables.Progress`."""
        if time.monotonic() - self._last >= _EVERY_S:
            self._last = time.monotonic()
            print_notice(f"  {what}: {done} of {total}" if total else f"  {what}")


@contextmanager
def _backup_errors() -> Iterator[None]:
    _log_to_standard_error()
    try:
        with devstack_errors():
            yield
    except (ConfigurationError, Invalid) as error:
        raise Misuse(str(error)) from error
    except FlotillaError as error:
        raise CliError(str(error)) from error


def _log_to_standard_error() -> None:
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def create_backup(
    folder: Path, state: Path | None, passphrase_file: Path | None, key_files: Sequence[Path]
) -> dict[str, Any]:
    """Create a backup; what its manifest says."""
    given = {"backup_passphrase_file": passphrase_file} if passphrase_file else {}
    with _backup_errors():
        if _is_elsewhere():
            settings = load_settings(BackupSettings, **given)
        else:
            settings = _of_stack(StateDir(state_folder(state)), given)
        settings = settings.model_copy(update={"backup_keys": (*settings.backup_keys, *key_files)})
        return dict(asyncio.run(create.create_backup(settings, folder.absolute(), ShownProgress())).as_json_object())


def verify_backup(
    folder: Path, state: Path | None, public_key: Path | None, audit_public_key: Path | None
) -> verify.BackupVerdict:
    """Verify a backup."""
    own = StateDir(state_folder(state))
    audit = audit_public_key or (own.public_key_file if own.public_key_file.exists() else None)
    with _backup_errors():
        keys = load_public_keys(audit) if audit else None
        return verify.verify_backup(folder, _trusted(own, public_key), keys, ShownProgress())


def restore_backup(
    folder: Path, state: Path | None, public_key: Path | None, passphrase_file: Path | None
) -> dict[str, Any]:
    """Restore a backup, into a new local stack or where the environment says."""
    given: dict[str, Any] = {"backup_passphrase_file": passphrase_file} if passphrase_file else {}
    with _backup_errors():
        if _is_elsewhere():
            if public_key:
                given["backup_public_key_file"] = public_key
            settings = load_settings(RestoreSettings, **given)
            return _document(asyncio.run(restore.restore_backup(settings, folder, ShownProgress())), None)
        target = StateDir(state_folder(state))
        given["backup_public_key_file"] = public_key or _default_key()
        return _document(restored_stack(target, folder, given, ShownProgress()), target.root)


def export_tenant(
    tenant: str, folder: Path, state: Path | None, passphrase_file: Path | None, *, with_open_work: bool
) -> dict[str, Any]:
    """Export a suspended tenant; what its manifest says."""
    given: dict[str, Any] = {"backup_passphrase_file": passphrase_file} if passphrase_file else {}
    with _backup_errors():
        if not _is_elsewhere():
            given |= _places(StateDir(state_folder(state)), BACKUP_ROLE)
        settings = load_settings(TenantExportSettings, **given)
        to = folder.absolute()
        exporting = tenant_export.export_tenant(settings, tenant, to, ShownProgress(), with_open_work=with_open_work)
        return dict(asyncio.run(exporting).as_json_object())


def import_tenant(
    folder: Path, state: Path | None, public_key: Path | None, passphrase_file: Path | None
) -> dict[str, Any]:
    """Import an exported tenant; what its manifest says, and whether it had been imported before."""
    given: dict[str, Any] = {"backup_passphrase_file": passphrase_file} if passphrase_file else {}
    with _backup_errors():
        if public_key:
            given["backup_public_key_file"] = public_key
        if not _is_elsewhere():
            given = {**_places(StateDir(state_folder(state)), None), **given}
        imported = asyncio.run(
            tenant_import.import_tenant(load_settings(TenantImportSettings, **given), folder, ShownProgress())
        )
        return {**imported.manifest.as_json_object(), "was_done": imported.was_done}


def _places(state: StateDir, user: str | None) -> dict[str, Any]:
    """Where the local stack's database is, for `user` or its owner, and its keys for backups."""
    create_key_pair(state.backup_key_file, state.backup_public_key_file)
    with Stack.attach(state.root) as stack:
        environment = stack.environment(user=user) if user else stack.environment()
    return {
        "postgres_dsn": environment["FLOTILLA_POSTGRES_DSN"],
        "backup_signing_key_file": state.backup_key_file,
        "backup_public_key_file": state.backup_public_key_file,
    }


def _document(restored: restore.Restored, state: Path | None) -> dict[str, Any]:
    return {
        **restored.manifest.as_json_object(),
        "was_done": restored.was_done,
        "key_files": [str(path) for path in restored.keys],
        "state": str(state) if state else None,
    }


def _is_elsewhere() -> bool:
    return bool(os.environ.get("FLOTILLA_POSTGRES_DSN"))


def _of_stack(state: StateDir, given: dict[str, Any]) -> BackupSettings:
    """Of the local stack, as the role that only reads; its key for backups is made the first time."""
    create_key_pair(state.backup_key_file, state.backup_public_key_file)
    with Stack.attach(state.root) as stack:
        dsn, kafka = stack.postgres_dsn(user=BACKUP_ROLE), stack.kafka_settings("backup")
    return load_settings(
        BackupSettings,
        postgres_dsn=dsn,
        backup_signing_key_file=state.backup_key_file,
        backup_keys=tuple(file for file in state.private_files() if file.exists()),
        backup_public_keys=(state.public_key_file, state.ticket_public_key_file, state.backup_public_key_file),
        backup_temporal_file=state.temporal_file,
        **kafka,
        **given,
    )


def _trusted(state: StateDir, public_key: Path | None) -> PublicKeys:
    return load_public_keys(public_key or _existing(state.backup_public_key_file))


def _default_key() -> Path:
    """That of the stack which the environment or the default names: the one that may be lost has made the backup."""
    return _existing(StateDir(state_folder(None)).backup_public_key_file)


def _existing(key: Path) -> Path:
    if not key.exists():
        raise Refused(f"no public key of backups in {key}: name it by --public-key")
    return key
