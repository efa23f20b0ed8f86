"""Applies the plain SQL files of `migrations/`, in order, once each.

yoyo does the bookkeeping in schema `flotilla_ops`. Its own lock is a row that a killed process leaves behind, so
a session advisory lock, which dies with its connection, stands in for it.
"""

from contextlib import redirect_stdout
from io import StringIO
from urllib.parse import urlsplit, urlunsplit

import psycopg
import yoyo

from flotilla.postgres.schema import MIGRATIONS

OPS_SCHEMA = "flotilla_ops"
_ADVISORY_LOCK = 0x666C6F74  # "flot"


def migrate(dsn: str) -> list[str]:
    """Brings the database at `dsn` to the newest schema and gives the names of the migrations applied.

    Safe to run twice and from several processes at once. `dsn` must belong to a role that may create roles,
    or the roles of `0001_core.sql` must exist already.
    """
    with psycopg.connect(dsn, autocommit=True) as lock:
        lock.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
        lock.execute(f"CREATE SCHEMA IF NOT EXISTS {OPS_SCHEMA}")
        backend = yoyo.get_backend(_yoyo_uri(dsn))
        with backend:
            pending = backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))
            for migration in pending:
                _apply(backend, migration)
    return [migration.id for migration in pending]


def _apply(backend: yoyo.backends.DatabaseBackend, migration: yoyo.migrations.Migration) -> None:
    """One migration and its mark, in one transaction: one that is killed in between can be run again.

    yoyo's own `apply_migrations` commits them apart, and wants a name for the user's number, which a pod has not.
    """
    # yoyo prints what a statement returns: an empty table for each call of a function.
    with backend.transaction(), redirect_stdout(StringIO()):
        migration.process_steps(backend, "apply")
        backend.mark_one(migration, log=False)


def _yoyo_uri(dsn: str) -> str:
    parts = urlsplit(dsn)
    query = f"{parts.query}&schema={OPS_SCHEMA}" if parts.query else f"schema={OPS_SCHEMA}"
    return urlunsplit(parts._replace(scheme="postgresql+psycopg", query=query))
