"""Applies the plain SQL files of `migrations/`, in order, once each.

yoyo does the bookkeeping in schema `flotilla_ops`. Its own lock is a row that a killed process leaves behind, so an
advisory lock replaces it. It belongs to a transaction: that of a session would stay with the server's connection where
a proxy (PgBouncer, transaction mode) lends connections for one transaction at a time.
"""

from collections.abc import Collection
from contextlib import redirect_stdout
from io import StringIO
from urllib.parse import urlsplit, urlunsplit

import psycopg
import yoyo

from flotilla.contracts.errors import ConfigurationError
from flotilla.postgres.pooler import NOT_POOLED
from flotilla.postgres.schema import MIGRATIONS

OPS_SCHEMA = "flotilla_ops"
_ADVISORY_LOCK = 0x666C6F74  # "flot"
_LOCK_S = 60


def migrate(dsn: str, only: Collection[str] | None = None) -> list[str]:
    """Bring the database at `dsn` to the newest schema and return the names of the migrations applied.

    `only` these migrations: a backup is restored into the schema that it was taken from.

    Safe to run twice and from several processes at once. `dsn` must belong to a role that may create roles,
    or the roles of `0001_core.sql` must exist already. It may name several hosts.

    Raises:
        ConfigurationError: there is a pooler in between.
        psycopg.errors.LockNotAvailable: another process has been migrating for `_LOCK_S`.
    """
    with psycopg.connect(dsn) as lock:
        _refuse_pooler(lock)
        lock.execute(f"SET LOCAL lock_timeout = '{_LOCK_S}s'")
        lock.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        lock.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
        one_host = _on_host(dsn, lock.info.host, lock.info.port)
        with psycopg.connect(one_host) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {OPS_SCHEMA}")
        with yoyo.get_backend(_yoyo_uri(one_host)) as backend:
            known = yoyo.read_migrations(str(MIGRATIONS))
            wanted = known.filter(lambda one: only is None or one.id in only)
            pending = backend.to_apply(wanted)
            for migration in pending:
                _apply(backend, migration)
        with psycopg.connect(one_host) as connection:
            for opening in ("open_to_backup", "open_to_mover"):
                _open_to_role(connection, opening)
    return [migration.id for migration in pending]


def _open_to_role(connection: "psycopg.Connection[tuple[object, ...]]", function: str) -> None:
    """Let a role that serves all tables have what these migrations added."""
    name = f"flotilla_ops.{function}()"
    if connection.execute("SELECT to_regprocedure(%s)", (name,)).fetchone() != (None,):
        connection.execute(f"SELECT {name}".encode())


def _refuse_pooler(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """A pooler makes up the number of the process that serves a connection. Migrations need a session of their own."""
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
    if pid != connection.info.backend_pid:
        raise ConfigurationError(NOT_POOLED)


def _on_host(dsn: str, host: str, port: int) -> str:
    """The DSN with the one host that accepts writes; yoyo can't read a DSN with several."""
    parts = urlsplit(dsn)
    if "," not in parts.netloc:
        return dsn
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{f'[{host}]' if ':' in host else host}:{port}"))


def _apply(backend: yoyo.backends.DatabaseBackend, migration: yoyo.migrations.Migration) -> None:
    """One migration and its mark, in one transaction: one that is killed in between can be run again.

    yoyo's own `migrate` commits them apart, and wants a name for the user's number, which a pod has not.
    """
    # yoyo prints what a statement returns: an empty table for each call of a function.
    with backend.transaction(), redirect_stdout(StringIO()):
        migration.process_steps(backend, "apply")
        backend.mark_one(migration, log=False)


def _yoyo_uri(dsn: str) -> str:
    parts = urlsplit(dsn)
    query = f"{parts.query}&schema={OPS_SCHEMA}" if parts.query else f"schema={OPS_SCHEMA}"
    return urlunsplit(parts._replace(scheme="postgresql+psycopg", query=query))
