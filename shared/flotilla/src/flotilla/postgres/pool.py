"""asyncpg pools and tenant transactions.

Row level security decides by settings that are made for one transaction at a time, so a pooled connection never carries
a tenant over to the next user. Services that serve every tenant name one in `flotilla.tenant_id`. For the role of the
agents that counts for nothing: the settings of a held task do, whose secret the database checks.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from flotilla.config import PostgresSettings
from flotilla.contracts.errors import RetryLater
from flotilla.encryption import (
    Cipher,
    Row,
    SealedTable,
    SessionKeyring,
    holds_sealed_columns,
    open_keyring,
    opened_columns,
    sealed_columns,
)
from flotilla.postgres.connecting import PostgresConnector
from flotilla.postgres.limited import LimitedConnection
from flotilla.postgres.pooler import SAY_POOLER, pooler_hint
from flotilla.postgres.schema import newest_migration
from flotilla.postgres.viewer import current_viewer

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a standby, or a primary that was demoted
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03
    asyncpg.InsufficientResourcesError,  # class 53: disk or memory full, too many connections
    asyncpg.OperatorInterventionError,  # class 57: shutdown, start, timeouts
    asyncpg.PostgresSystemError,  # class 58: the server's own input and output
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What asyncpg raises while the server is away, accepts no writes or has no room, or when it ended a statement or a
connection by one of its timeouts: the same call may succeed later. By SQLSTATE class. InternalClientError: a connection
that is lost in the middle of a statement may raise it when it goes back to the pool. Source: PostgreSQL's manual,
"PostgreSQL Error Codes"."""

UNSTORABLE = (
    asyncpg.DataError,  # class 22
    asyncpg.ProgramLimitExceededError,  # class 54: an index entry that is too large, a value nested too deep
    asyncpg.CheckViolationError,
    asyncpg.NotNullViolationError,
)
"""What PostgreSQL answers to a value that it can't hold: the same statement would fail again. By SQLSTATE class."""


@contextmanager
def retry_later_if_unavailable(subject: str = "") -> Iterator[None]:
    """Raise RetryLater where the block meets one of `AWAY`; `subject` names what is left undone until then."""
    try:
        yield
    except AWAY as error:
        reason = str(error) or type(error).__name__
        raise RetryLater(f"PostgreSQL does not answer{subject and f', {subject}'}: {reason}") from error


_CHECK_S = 4.0
_READ_ONLY = "PostgreSQL accepts no writes: it is a standby, or a former primary (check FLOTILLA_POSTGRES_DSN)"
"""Less than a readiness check may take, so that the reason is reported."""
IDLE_IN_TRANSACTION_S = 30
"""Longer than any transaction here waits between two statements: none calls a model, or the network for anything but a
key of a session, which an agent waits 28 s for."""

_SET = "SELECT set_config(s.name, s.value, true) FROM unnest($1::text[], $2::text[]) AS s (name, value)"
_SELECT_STATE_YOYO_MIGRATIONS = """
SELECT current_setting('transaction_read_only') = 'on' AS read_only, pg_backend_pid() AS pid,
    EXISTS (SELECT FROM flotilla_ops._yoyo_migration WHERE migration_id = $1) AS applied
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProof:
    """What proves to the database that this process was given a task."""

    task_id: str
    attempt: int
    secret: str


_held: ContextVar[TaskProof | None] = ContextVar("held_task", default=None)


@contextmanager
def acting_for_task(task: TaskProof | None) -> Iterator[None]:
    """Makes the transactions of the block, and of tasks started in it, act for `task`."""
    token = _held.set(task)
    try:
        yield
    finally:
        _held.reset(token)


def current_task_proof() -> TaskProof | None:
    """What shows that this process holds the task that it acts for; None where it acts for none."""
    return _held.get()


def is_acting_for_task() -> bool:
    """Whether transactions act for a task."""
    return _held.get() is not None


@asynccontextmanager
async def open_pool(
    dsn: str,
    *,
    application: str,
    max_size: int = 10,
    idle_in_transaction_s: int = IDLE_IN_TRANSACTION_S,
    ca_file: str | None = None,
    keyring: SessionKeyring | None = None,
) -> AsyncIterator[Pool]:
    """A pool on `dsn` that opens connections lazily, so that a service can start before its database.

    `application` shows in pg_stat_activity. A transaction that gets no next statement for `idle_in_transaction_s` is
    ended by PostgreSQL: a process that froze in the middle of one would keep its sessions locked indefinitely. One that
    wakes again meets an error of `AWAY`, and nothing of its transaction is there.

    What is appended on its connections is encrypted, and what is read decrypted, with the keys of `keyring`.
    """

    async def _give_keys(connection: LimitedConnection) -> None:
        connection.keyring = keyring

    pool = await PostgresConnector(dsn, ca_file).open_pool(
        max_size=max_size,
        reset=_clean,
        init=_give_keys,
        server_settings={
            "application_name": application,
            "idle_in_transaction_session_timeout": f"{idle_in_transaction_s}s",
        },
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(5):
                await pool.close()
        except TimeoutError:
            log.warning("postgres_pool_terminated", reason="connections still in use after 5 s")
            pool.terminate()


def open_service_pool(
    settings: PostgresSettings, *, application: str, keyring: SessionKeyring | None = None
) -> AbstractAsyncContextManager[Pool]:
    """`open_pool` as a service's settings say; with `keyring`, if the service uses that elsewhere, too."""
    return open_pool(
        settings.postgres_dsn.get_secret_value(),
        application=application,
        max_size=settings.postgres_pool_max,
        idle_in_transaction_s=settings.postgres_idle_in_transaction_s,
        ca_file=settings.postgres_ca_file,
        keyring=keyring or open_keyring(settings),
    )


@asynccontextmanager
async def tenant_transaction(pool: Pool, tenant_id: str, *, durable: bool = True) -> AsyncIterator[Connection]:
    """One transaction that sees and writes the rows of `tenant_id` only, and of these what the task's viewer may.
    Commits on leaving, rolls back on error.

    Not `durable`: the commit does not wait for the disk. Everybody sees it at once, but a crash of the server within
    the next second may undo it, unless a durable commit came after it (source: PostgreSQL's manual, "Asynchronous
    Commit"). Only for what somebody repeats anyway.
    """
    settings = {"flotilla.tenant_id": tenant_id, **({} if durable else {"synchronous_commit": "off"})}
    async with _transaction(pool, settings) as connection:
        yield connection


@asynccontextmanager
async def tenant_snapshot(pool: Pool, tenant_id: str) -> AsyncIterator[Connection]:
    """Reads of `tenant_id` only, all of one moment: what others commit meanwhile is not seen."""
    settings = {"flotilla.tenant_id": tenant_id}
    async with _transaction(pool, settings, isolation="repeatable_read", readonly=True) as connection:
        yield connection


async def set_tenant(connection: Connection, tenant_id: str) -> None:
    """Makes the rest of the current transaction act for `tenant_id`."""
    await _set(connection, {"flotilla.tenant_id": tenant_id, **_viewing(), **_proof()})


@asynccontextmanager
async def _transaction(pool: Pool, settings: Mapping[str, str], **options: Any) -> AsyncIterator[Connection]:
    """A transaction that knows for whom it acts: everything that the policies of the database look at."""
    async with pool.acquire() as acquired:
        connection = cast("LimitedConnection", acquired)
        async with connection.transaction_with({**settings, **_viewing()}, **options):
            if proof := _proof():
                await _set(acquired, proof)
            yield acquired


def _viewing() -> dict[str, str]:
    return {} if (viewer := current_viewer()) is None else viewer.transaction_settings()


def _proof() -> dict[str, str]:
    """What shows that this process holds its task. A secret: it goes as a parameter, which pg_stat_activity hides."""
    task = _held.get()
    if task is None:
        return {}
    return {
        "flotilla.task_id": task.task_id,
        "flotilla.task_attempt": str(task.attempt),
        "flotilla.task_secret": task.secret,
    }


async def _set(connection: Connection, settings: Mapping[str, str]) -> None:
    await connection.execute(_SET, list(settings), list(settings.values()))


def keyring_of(connection: Connection) -> SessionKeyring | None:
    """The keyring of the pool that the connection is of; None for a connection that no pool of `open_pool` opened."""
    return cast("SessionKeyring | None", getattr(connection, "keyring", None))


async def writing_cipher(connection: Connection, tenant_id: str, session_id: str) -> Cipher | None:
    """The cipher for what is recorded in the session now; None where it stays clear. At most one statement a minute for
    each session and process.

    Raises:
        ConfigurationError, RetryLater: as `SessionKeyring.writing`.
    """
    keyring = keyring_of(connection)
    return None if keyring is None else await keyring.writing(connection, tenant_id, session_id)


async def session_cipher(connection: Connection, tenant_id: str, session_id: str) -> Cipher | None:
    """`writing_cipher` for a caller that has no transaction; begins one only where the key has to be looked up."""
    keyring = keyring_of(connection)
    if keyring is None or not keyring.encrypts(session_id):
        return None
    if (known := keyring.remembered(tenant_id, session_id)) is not None:
        return known
    async with connection.transaction():
        await set_tenant(connection, tenant_id)
        return await keyring.writing(connection, tenant_id, session_id)


async def reading_ciphers(
    connection: Connection, tenant_id: str, session_ids: Iterable[str]
) -> Mapping[str, Cipher | None]:
    """The cipher of each session, None for one without; none at all where this process has no root key."""
    keyring = keyring_of(connection)
    return {} if keyring is None else await keyring.reading(connection, tenant_id, session_ids)


async def reading_cipher(pool: Pool, tenant_id: str, session_id: str) -> Cipher | None:
    """The session's cipher, or None as `reading_ciphers`; for a caller that has no connection. No statement is made
    where the key was looked up within the last minute."""
    async with pool.acquire() as acquired:
        connection = cast("LimitedConnection", acquired)
        if (keyring := connection.keyring) is None:
            return None
        if (known := keyring.remembered(tenant_id, session_id)) is not None:
            return known
        async with connection.transaction():
            await set_tenant(acquired, tenant_id)
            return (await keyring.reading(acquired, tenant_id, [session_id]))[session_id]


async def open_stored_row(pool: Pool, tenant_id: str, table: SealedTable, row: Row) -> dict[str, Any]:
    """`open_row` for a caller that has no connection."""
    if not holds_sealed_columns(table, row):
        return dict(row)
    return opened_columns(await reading_cipher(pool, tenant_id, row["session_id"]), table, row)


def no_session_key(session_id: str) -> RetryLater:
    """Return the error of a process that is to work on with what it can't decrypt."""
    return RetryLater(
        f"session {session_id} is encrypted, and this process does not have its key: "
        "set FLOTILLA_ENCRYPTION_KEY_FILE to the fleet's root keys, at an agent FLOTILLA_SESSION_KEYS_URL to the "
        "worker's address (docs/privacy.md)"
    )


async def seal_columns(
    connection: Connection, tenant_id: str, session_id: str, table: SealedTable, key: str, **values: Any
) -> dict[str, Any]:
    """The values of a row's columns as they are to be stored: encrypted, if what the session records now is. JSON is
    text.

    Raises:
        ConfigurationError, RetryLater: as `SessionKeyring.writing`.
    """
    return sealed_columns(await writing_cipher(connection, tenant_id, session_id), table, key, values)


async def open_rows(
    connection: Connection, tenant_id: str, table: SealedTable, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """The rows with what is encrypted decrypted, or marked as erased or unreadable. They need their key and, where one
    holds something encrypted, `session_id`."""
    sessions = {row["session_id"] for row in rows if holds_sealed_columns(table, row)} - {None}
    if not sessions:
        return [dict(row) for row in rows]
    ciphers = await reading_ciphers(connection, tenant_id, sorted(sessions))
    return [opened_columns(ciphers.get(row["session_id"]), table, row) for row in rows]


async def open_row(connection: Connection, tenant_id: str, table: SealedTable, row: Row) -> dict[str, Any]:
    """`open_rows` for one."""
    return (await open_rows(connection, tenant_id, table, [row]))[0]


def reset_session_after_use(connection: Connection) -> None:
    """Have the connection's session reset before anyone else gets it: the statements on it are not Flotilla's own."""
    cast("LimitedConnection", connection).mark_dirty()


async def _clean(connection: Any) -> None:
    """Flotilla's own statements leave nothing behind in a session: a reset would be a round trip for nothing."""
    await cast("LimitedConnection", connection).reset_session()


async def check_schema(pool: Pool) -> None:
    """Raises RetryLater until the database accepts writes and holds this code's newest migration: a readiness check."""
    migration_id = newest_migration()
    try:
        state = await _state(pool, migration_id)
    except (
        asyncpg.UndefinedTableError,
        asyncpg.InvalidSchemaNameError,
        asyncpg.InvalidCatalogNameError,
    ) as error:
        raise RetryLater("the database has no Flotilla schema yet: run `python -m flotilla.install`") from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise RetryLater(
            f"PostgreSQL refuses this user: {error}; check FLOTILLA_POSTGRES_DSN, and that "
            "`python -m flotilla.install` has made the role and set its password"
        ) from error
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise RetryLater(_READ_ONLY) from error
    except (
        *AWAY,
        TimeoutError,
        asyncpg.InvalidSQLStatementNameError,
        asyncpg.DuplicatePreparedStatementError,
    ) as error:
        reason = pooler_hint(error) or str(error) or type(error).__name__
        raise RetryLater(f"PostgreSQL does not answer: {reason} (check FLOTILLA_POSTGRES_DSN)") from error
    if state["read_only"]:
        await pool.expire_connections()
        raise RetryLater(_READ_ONLY)
    if not state["applied"]:
        raise RetryLater(f"migration {migration_id} is not applied yet: run `python -m flotilla.install`")


async def _state(pool: Pool, migration_id: str) -> asyncpg.Record:
    async with pool.acquire() as acquired:
        connection = cast("LimitedConnection", acquired)
        if connection.is_pooled:  # a pooler in statement mode refuses to begin a transaction
            async with connection.transaction():
                return await _one_row(connection, migration_id)
        state = await _one_row(connection, migration_id)
        if state["pid"] != connection.get_server_pid():
            raise ConnectionError(f"a pooler (PgBouncer) is in between: {SAY_POOLER}")
        return state


async def _one_row(connection: LimitedConnection, migration_id: str) -> asyncpg.Record:
    state = await connection.fetchrow(_SELECT_STATE_YOYO_MIGRATIONS, migration_id, timeout=_CHECK_S)
    assert state is not None  # noqa: S101 - the statement always gives one row
    return state
