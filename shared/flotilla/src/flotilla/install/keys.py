"""The first API keys, and the keys that sign the audit log and the tasks of a local stack."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flotilla.contracts.api_keys import api_key_hash, api_key_hint, new_api_key
from flotilla.contracts.errors import ConfigurationError

Connection: TypeAlias = "psycopg.Connection[tuple[object, ...]]"
MIN_KEY_LENGTH = 32
_KEYS_LOCK = 0x6B657973  # "keys"
_OWNER_ONLY = 0o600
TENANT = "default"


@dataclass(frozen=True, slots=True)
class LocalKey:
    """A key of the local stack. A person may approve; the admin may not."""

    name: str
    roles: list[str]
    is_person: bool


@dataclass(frozen=True, slots=True)
class RequestedKeyFiles:
    """Which files the installer is asked for."""

    api_keys: Path | None = None
    signing_key: Path | None = None
    ticket_key: Path | None = None
    redis_passwords: Path | None = None
    """Read, not written."""

    @property
    def key_pairs(self) -> list[Path]:
        """The private keys that are asked for."""
        return [path for path in (self.signing_key, self.ticket_key) if path is not None]

    @property
    def requested_files(self) -> list[Path]:
        """Those that are asked for."""
        return [path for path in (self.api_keys, *self.key_pairs) if path is not None]


LOCAL_KEYS = (
    LocalKey("admin", ["admin"], is_person=False),
    LocalKey("alice", ["operator", "approver"], is_person=True),
    LocalKey("bob", ["operator", "approver"], is_person=True),
)

_INSERT_PEOPLE = """
INSERT INTO flotilla.people (tenant_id, subject, display_name, roles) VALUES (%s, %s, %s, %s)
ON CONFLICT (tenant_id, subject) DO NOTHING
"""
# What a local person can spend on orders: 1,000.00 EUR, once.
_INSERT_ACCOUNTS = """
INSERT INTO flotilla.accounts (tenant_id, user_id, currency, available_minor) VALUES (%s, %s, 'EUR', 100000)
ON CONFLICT (tenant_id, user_id, currency) DO NOTHING
"""
# Acts for the tenant: row level security holds for the tables' owner too.
_AS_TENANT = "SELECT set_config('role', 'flotilla_install', true), set_config('flotilla.tenant_id', %s, true)"
# The same key again changes nothing; another one takes the place of the one that was lost.
_INSERT_API_KEYS = """
INSERT INTO flotilla.api_keys (tenant_id, key_id, name, key_hash, subject, roles, created_by, hint)
VALUES (%s, %s, %s, %s, %s, %s, 'install', %s)
ON CONFLICT (tenant_id, key_id) DO UPDATE
    SET key_hash = excluded.key_hash, roles = excluded.roles, hint = excluded.hint,
        revoked_at = CASE WHEN api_keys.key_hash = excluded.key_hash THEN api_keys.revoked_at END
    WHERE api_keys.key_hash <> excluded.key_hash OR api_keys.hint IS DISTINCT FROM excluded.hint
"""


def write_local_keys(dsn: str, path: Path) -> None:
    """Makes sure that the keys in `path` (JSON, name → key, mode 0600) exist and work; keeps those that are there.

    Safe to run twice and from several processes at once.
    """
    with psycopg.connect(dsn) as connection:
        _begin(connection)
        kept = _read(path)
        keys = {local.name: kept.get(local.name) or new_api_key() for local in LOCAL_KEYS}
        for local in LOCAL_KEYS:
            _store(connection, f"local-{local.name}", local, keys[local.name])
        # Before the commit: keys that work must never be without their file.
        if keys.items() - kept.items():
            write_secret_file(path, json.dumps({**kept, **keys}, indent=2) + "\n")


def store_admin_key(dsn: str, key: str) -> None:
    """Makes `key` act as admin of the default tenant: how the first key comes into a new installation."""
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigurationError(
            f"FLOTILLA_ADMIN_KEY has {len(key)} characters: give it {MIN_KEY_LENGTH} random ones or more"
        )
    with psycopg.connect(dsn) as connection:
        _begin(connection)
        _store(connection, "first-admin", LocalKey("admin", ["admin"], is_person=False), key)


def _begin(connection: Connection) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_KEYS_LOCK,))
    connection.execute(_AS_TENANT, (TENANT,))


def _read(path: Path) -> dict[str, str]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): str(key) for name, key in kept.items()} if isinstance(kept, dict) else {}


def _store(connection: Connection, key_id: str, local: LocalKey, key: str) -> None:
    if local.is_person:
        connection.execute(_INSERT_PEOPLE, (TENANT, local.name, local.name.capitalize(), local.roles))
        connection.execute(_INSERT_ACCOUNTS, (TENANT, local.name))
    row = (TENANT, key_id, local.name, api_key_hash(key), local.name, local.roles, api_key_hint(key))
    connection.execute(_INSERT_API_KEYS, row)


def write_signing_key(path: Path) -> None:
    """An Ed25519 key (PKCS#8, PEM, mode 0600) for checkpoints or tickets; keeps the one that is there."""
    if path.exists():
        return
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret_file(path, pem.decode(), replace=False)


def write_secret_file(path: Path, text: str, *, replace: bool = True) -> None:
    """Writes `text` for the owner alone, all or nothing. Without `replace` the first one to write wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # created with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(_OWNER_ONLY)
        _place(Path(name), path, replace=replace)
    finally:
        Path(name).unlink(missing_ok=True)


def _place(written: Path, path: Path, *, replace: bool) -> None:
    if replace:
        written.replace(path)
        return
    with suppress(FileExistsError):  # somebody else was quicker
        path.hardlink_to(written)
