"""Connections to PostgreSQL that reach the primary wherever it is, and notice within seconds that it has gone.

A server can vanish without a word: its machine stops, or a firewall drops its packets. Then nothing answers, and
without limits of its own a client waits for minutes.
"""

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import asyncpg
from asyncpg.connection import LoggedQuery

from flotilla.config.password_files import split_password_file
from flotilla.contracts.errors import ConfigurationError
from flotilla.postgres.limited import LimitedConnection
from flotilla.postgres.pooler import NOT_POOLED, pooler_hint, split_pooler_options

if TYPE_CHECKING:
    from flotilla.postgres.pooler import PooledConnection

CONNECT_S = 3.0
"""For each host: one that is frozen must not take the time of the next."""
COMMAND_S = 12.0
"""Longer than any statement of the services takes."""
_USER_TIMEOUT_MS = 8_000
_KEEPALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 2}
"""Seconds without traffic, seconds between probes, probes without an answer."""
_SAME_ON_EVERY_HOST = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_HOST_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InternalClientError, asyncpg.InterfaceError)
_VERIFYING = ("verify-ca", "verify-full")


class PostgresConnector:
    """Opens the connections of one pool."""

    def __init__(self, dsn: str, ca_file: str | None = None) -> None:
        """`ca_file` holds the certificates that may have signed the server's; unset, those of the system.

        Raises:
            ConfigurationError: `ca_file` can't be read as certificates, or the DSN contradicts itself.
        """
        dsn, password = split_password_file(dsn)
        dsn, self._pooling = split_pooler_options(dsn)
        self._dsns = dsn_per_host(dsn)
        self._options: dict[str, Any] = {} if password is None else {"password": password}
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._expiring: asyncio.Task[None] | None = None
        if (context := _ssl_context(dsn, ca_file)) is not None:
            self._options["ssl"] = context
        if "target_session_attrs" not in parse_qs(urlsplit(dsn).query):
            self._options["target_session_attrs"] = "read-write"

    async def __call__(self, *_dsn: str, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection to the first host that accepts writes; begins with the one that did last.

        Raises:
            asyncpg.InvalidAuthorizationSpecificationError: a host refuses the user or the password.
            ConnectionError: none of several hosts accepts writes. For one host, whatever asyncpg raises.
        """
        refusals: dict[str, Exception] = {}
        for dsn in list(self._dsns):
            try:
                connection = await self._connect(dsn, {**options, **self._options})
            except _SAME_ON_EVERY_HOST:
                raise
            except _HOST_FAILURES as error:
                if len(self._dsns) == 1:
                    raise
                refusals[urlsplit(dsn).netloc.rpartition("@")[2]] = error
            else:
                self._dsns.remove(dsn)
                self._dsns.insert(0, dsn)
                set_tcp_timeouts(connection)
                connection.add_query_logger(self._look)
                return connection
        reasons = ", ".join(f"{host}: {str(error) or type(error).__name__}" for host, error in refusals.items())
        raise ConnectionError(f"no host of the DSN accepts writes ({reasons})")

    async def _connect(self, dsn: str, options: dict[str, Any]) -> "asyncpg.Connection[asyncpg.Record]":
        settings = options.get("server_settings", {})
        if self._pooling is not None:
            options |= self._pooling.connect_options(settings)
        try:
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(dsn, timeout=CONNECT_S, **options)
        except asyncpg.ProtocolViolationError as error:
            raise ConnectionError(pooler_hint(error) or str(error)) from error
        if self._pooling is not None:
            cast("PooledConnection", connection).add_settings_to_transactions(settings)
        return connection

    async def open_pool(self, **options: Any) -> "asyncpg.Pool[asyncpg.Record]":
        """A pool whose connections are made here; `options` are those of `asyncpg.create_pool`. Opens none yet."""
        given: dict[str, Any] = {
            "connect": self,
            "connection_class": LimitedConnection,
            "min_size": 0,
            "command_timeout": COMMAND_S,
            **options,
        }
        self._pool = asyncpg.create_pool(self._dsns[0], **given)
        await self._pool
        return self._pool

    def _look(self, query: LoggedQuery) -> None:
        """Where one connection finds its server silent or demoted, the others are on the same one: all are replaced."""
        if isinstance(query.exception, TimeoutError | asyncpg.ReadOnlySQLTransactionError) and self._pool is not None:
            self._expiring = asyncio.create_task(self._pool.expire_connections(), name="postgres-expire")


def dsn_per_host(dsn: str) -> list[str]:
    """The DSN once for each of its hosts: `postgresql://u:p@a:1,b:2/d` gives one with `a:1` and one with `b:2`."""
    parts = urlsplit(dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]


def libpq_dsn(dsn: str, ca_file: str | None = None) -> str:
    """The same DSN for libpq, which goes through the hosts by itself: with a limit, to one that accepts writes.

    Raises:
        ConfigurationError: the DSN names a pooler, or contradicts itself.
    """
    dsn, password = split_password_file(dsn)
    if split_pooler_options(dsn)[1] is not None:
        raise ConfigurationError(NOT_POOLED)
    parts = urlsplit(dsn)
    given = parse_qs(parts.query)
    added = {"target_session_attrs": "read-write", "connect_timeout": f"{CONNECT_S:g}"}
    if password is not None:
        added["password"] = password()
    if given.get("sslmode", [""])[-1] in _VERIFYING:
        added["sslrootcert"] = ca_file or ssl.get_default_verify_paths().cafile or "system"
    query = [parts.query, *(f"{name}={quote(value, safe='/')}" for name, value in added.items() if name not in given)]
    return urlunsplit(parts._replace(query="&".join(filter(None, query))))


def set_tcp_timeouts(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Let the kernel end the connection when the other side's machine no longer answers (tcp(7))."""
    transport: asyncio.Transport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - not public
    opened = transport.get_extra_info("socket")
    if opened is None or opened.family == socket.AF_UNIX:
        return
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE, "TCP_USER_TIMEOUT": _USER_TIMEOUT_MS}.items():
        if hasattr(socket, name):  # not on every system
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _ssl_context(dsn: str, ca_file: str | None) -> ssl.SSLContext | None:
    """asyncpg wants a root certificate in the user's home for sslmode=verify-full; this takes the system's store."""
    query = parse_qs(urlsplit(dsn).query)
    mode = query.get("sslmode", [""])[-1]
    if "sslrootcert" in query or (mode not in _VERIFYING and ca_file is None):
        return None
    if mode not in _VERIFYING:
        raise ConfigurationError(
            f"FLOTILLA_POSTGRES_CA_FILE={ca_file} needs sslmode=verify-full (or verify-ca) in FLOTILLA_POSTGRES_DSN"
        )
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        problem = f"FLOTILLA_POSTGRES_CA_FILE={ca_file} can't be read as certificates: {error}"
        raise ConfigurationError(problem) from error
    context.check_hostname = mode == "verify-full"
    return context
