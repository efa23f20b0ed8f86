"""Connections to Redis or Valkey, set up for streams.

redis-py repeats a failed command three times by default; a repeated XADD would double its entry, so here nothing is
repeated behind the caller's back. `socket_timeout` is not extended for BLOCK: reads block for less than it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit, urlunsplit

import redis.asyncio
from redis import exceptions
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from flotilla.bus.logins import PasswordFileCredentials
from flotilla.bus.pooling import SILENT_PEER_SOCKET_OPTIONS, PrimaryPool
from flotilla.bus.sentinel import REDIS_SETTING, SENTINEL_URL_EXAMPLE, primary_connection_class, split_sentinel_url
from flotilla.config.password_files import split_password_file
from flotilla.contracts.errors import ConfigurationError, RetryLater

Redis: TypeAlias = redis.asyncio.Redis

WRITE_REFUSED_ERRORS = (exceptions.OutOfMemoryError, exceptions.ReadOnlyError)
"""What a server answers that takes no writes: out of memory, or a replica after a failover."""

AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, *WRITE_REFUSED_ERRORS)
"""What redis-py raises while the server is unavailable, loading, too slow to answer, or unwilling."""

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 3.0
_CHECK_SETTING_HINT = f"check {REDIS_SETTING}"
MAX_READ_BLOCK_MS = 2_000
"""Longest BLOCK of a read: well below the socket timeout, else a read that timed out would strand its entries."""


@asynccontextmanager
async def connect_redis(
    url: str, *, name: str = "flotilla", max_connections: int = 64, setting: str = REDIS_SETTING
) -> AsyncIterator[Redis]:
    """A client on `url` that connects on first use, so that a service can start before its Redis.

    `name` shows in CLIENT LIST. Values come back as bytes. `setting` is where the URL stands.

    Raises:
        ConfigurationError: the URL is none that can be used.
    """
    url, options = redis_url_and_options(url, setting)
    pool = _make_connection_pool(
        url,
        setting,
        **options,
        client_name=name,
        driver_info=None,  # no CLIENT SETINFO, which Redis 7.0 does not know
        max_connections=max_connections,
        protocol=2,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_keepalive=True,
        socket_keepalive_options=SILENT_PEER_SOCKET_OPTIONS,
        retry=Retry(NoBackoff(), 0),
    )
    client = redis.asyncio.Redis.from_pool(pool)
    try:
        yield client
    finally:
        await client.aclose()


def _make_connection_pool(url: str, setting: str, **options: Any) -> PrimaryPool:
    try:
        return PrimaryPool.from_url(url, **options)
    except ValueError as error:
        raise ConfigurationError(f"{setting}: {error}") from error


def redis_url_and_options(url: str, setting: str = REDIS_SETTING) -> tuple[str, dict[str, Any]]:
    """Return the URL as redis-py takes it, and the options of a connection that its other parts stand for.

    Raises:
        ConfigurationError: the URL contradicts itself, or lacks a part.
    """
    url, sentinels = split_sentinel_url(url, setting)
    url, password = split_password_file(url)
    options: dict[str, Any] = {"connection_class": primary_connection_class(sentinels) if sentinels else Connection}
    if password is None:
        return url, options
    parts = urlsplit(url)
    user = unquote(parts.username) if parts.username else None
    nobody = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return nobody, {**options, "credential_provider": PasswordFileCredentials(user, password)}


async def execute_redis_command(client: Redis, *command: str | bytes | int | float) -> Any:
    """Send one command and give its answer, as redis-py parses it (which has no types for this call)."""
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]


async def check_redis(client: Redis) -> None:
    """Raise RetryLater until a primary that can hold the streams answers: a readiness check."""
    try:
        await execute_redis_command(client, "PING")
        await _check_server_is_primary(client)
    except (*AWAY, exceptions.RedisError) as error:
        # A wrong password is a ConnectionError, too.
        if isinstance(error, AWAY) and not isinstance(error, exceptions.AuthenticationError):
            raise RetryLater(f"Redis does not answer: {error} ({_CHECK_SETTING_HINT})") from error
        raise RetryLater(f"Redis refuses this client: {error} ({_CHECK_SETTING_HINT} and its user)") from error


async def _check_server_is_primary(client: Redis) -> None:
    try:
        # Every user of the fleet may say HELLO, which INFO and ROLE tell more than.
        answer = await execute_redis_command(client, "HELLO")
    except exceptions.NoPermissionError:
        return  # writes will tell
    server = dict(zip(answer[::2], answer[1::2], strict=True))
    if server[b"mode"] == b"sentinel":
        raise RetryLater(f"this is a sentinel, not a Redis: write {SENTINEL_URL_EXAMPLE} ({_CHECK_SETTING_HINT})")
    if server[b"mode"] == b"cluster":
        raise RetryLater(
            "Redis Cluster is not supported: streams and locks need one primary; use one primary with replicas "
            f"({_CHECK_SETTING_HINT})"
        )
    if server[b"role"] != b"master":
        if isinstance(client.connection_pool, PrimaryPool):
            client.connection_pool.replace_connections()
        raise RetryLater(
            f"Redis accepts no writes: it is a replica ({_CHECK_SETTING_HINT}: it must lead to the primary)"
        )
