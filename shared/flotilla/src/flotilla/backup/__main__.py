"""Creates, verifies or restores a backup, or moves a tenant, by the settings of the environment: for Jobs. `flotilla
backup` and `flotilla tenants` do the same.

Exit code 0: done, and a backup that was verified is good; 1: a server does not answer, or the backup is not good; 2:
something has to be set or named differently. Standard output holds one JSON document.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from flotilla.backup.create import create_backup
from flotilla.backup.restore import restore_backup
from flotilla.backup.settings import BackupSettings, RestoreSettings, TenantExportSettings, TenantImportSettings
from flotilla.backup.tenant_export import export_tenant
from flotilla.backup.tenant_import import import_tenant
from flotilla.backup.verify import verify_backup
from flotilla.config import load_settings
from flotilla.config.signing import load_public_keys
from flotilla.contracts.errors import ConfigurationError, FlotillaError, Refused
from flotilla.contracts.json_types import JsonObject
from flotilla.telemetry import configure_logs

SERVICE = "backup"
EXIT_OK, EXIT_FAILED, EXIT_MISUSE = 0, 1, 2
_LOG_EVERY_S = 5.0
log = structlog.get_logger(__name__)


class LoggedProgress:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `Progress`."""
        if time.monotonic() - self._last >= _LOG_EVERY_S:
            self._last = time.monotonic()
            log.info("working", what=what, done=done, total=total)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flotilla.backup", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("create").add_argument("folder", type=Path, help="a new folder; a time in it: %%Y%%m%%dT%%H%%M%%S")
    verbs.add_parser("restore").add_argument("folder", type=Path)
    tenant = verbs.add_parser("export-tenant", help="a suspended tenant, for another fleet")
    tenant.add_argument("tenant")
    tenant.add_argument("folder", type=Path, help="a new folder")
    tenant.add_argument("--with-open-work", action="store_true", help="what is under way ends in the other fleet")
    verbs.add_parser("import-tenant").add_argument("folder", type=Path)
    verify = verbs.add_parser("verify")
    verify.add_argument("folder", type=Path)
    verify.add_argument("--public-key", type=Path, required=True, help="of those who may sign backups")
    verify.add_argument("--audit-public-key", type=Path, help="of those who sign the audit log's checkpoints")
    return parser.parse_args(argv)


def run(given: argparse.Namespace) -> tuple[int, JsonObject]:
    """Do it; return exit code and document."""
    progress = LoggedProgress()
    if given.verb == "create":
        folder = Path(time.strftime(str(given.folder), time.gmtime()))
        manifest = asyncio.run(create_backup(load_settings(BackupSettings), folder, progress))
        return EXIT_OK, {"folder": str(folder), **manifest.as_json_object()}
    if given.verb == "restore":
        restored = asyncio.run(restore_backup(load_settings(RestoreSettings), given.folder, progress))
        keys = [str(path) for path in restored.keys]
        return EXIT_OK, {**restored.manifest.as_json_object(), "was_done": restored.was_done, "key_files": keys}
    if given.verb == "export-tenant":
        exporting = load_settings(TenantExportSettings)
        exported = asyncio.run(
            export_tenant(exporting, given.tenant, given.folder, progress, with_open_work=given.with_open_work)
        )
        return EXIT_OK, {"folder": str(given.folder), **exported.as_json_object()}
    if given.verb == "import-tenant":
        imported = asyncio.run(import_tenant(load_settings(TenantImportSettings), given.folder, progress))
        return EXIT_OK, {**imported.manifest.as_json_object(), "was_done": imported.was_done}
    audit_keys = load_public_keys(given.audit_public_key) if given.audit_public_key else None
    verdict = verify_backup(given.folder, load_public_keys(given.public_key), audit_keys, progress)
    return (EXIT_OK if verdict.ok else EXIT_FAILED), verdict.as_json_object()


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit code."""
    given = parse_arguments(argv)
    configure_logs(SERVICE, "info", "json")
    try:
        code, document = run(given)
    except (ConfigurationError, Refused) as error:
        sys.stderr.write(f"{SERVICE}: {error}\n")
        return EXIT_MISUSE
    except FlotillaError as error:
        sys.stderr.write(f"{SERVICE}: {error}\n")
        return EXIT_FAILED
    sys.stdout.write(json.dumps(document) + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
