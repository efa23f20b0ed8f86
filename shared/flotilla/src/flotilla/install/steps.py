"""The steps of an installation. Each can be repeated, and run by several processes at once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import psycopg
import structlog
from psycopg import sql
from redis.exceptions import RedisError

from flotilla.bus import AWAY, check_redis, connect_redis, ensure_group
from flotilla.bus.acl import create_redis_users, fleet_redis_permissions
from flotilla.bus.functions import load_redis_functions
from flotilla.config.signing import write_public_key
from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import ConfigurationError, RetryLater, Undecodable
from flotilla.contracts.names import BRIDGE_GROUP, REPLIES_STREAM, agent_group, reply_stream, task_stream
from flotilla.install import keys
from flotilla.install.settings import Passwords, Settings
from flotilla.kafka.granting import grant_kafka_rights
from flotilla.kafka.topics import ensure_topics
from flotilla.postgres.migrate import migrate

log = structlog.get_logger(__name__)
_ROLES_LOCK = 0x726F6C65  # "role"


async def install_schema(settings: Settings) -> None:
    """Apply the migrations, make the agents' roles and set the passwords of the fleet's roles.

    Raises:
        RetryLater: PostgreSQL does not answer, or does not know the database or the user yet.
        ConfigurationError: the role may not do this, or an agent can't have a role.
    """
    dsn = settings.libpq_dsn()
    passwords = settings.role_passwords()
    try:
        applied = await asyncio.to_thread(migrate, dsn)
        await asyncio.to_thread(_install_roles, dsn, settings.install_agents, passwords)
    except psycopg.errors.NameTooLong as error:
        raise ConfigurationError(f"FLOTILLA_INSTALL_AGENTS: {error.diag.message_primary}") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the role of FLOTILLA_POSTGRES_DSN may not install: {error.diag.message_primary}; "
            "use the database's owner with CREATEROLE, or a superuser"
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise RetryLater(
            "another install holds the migration lock: let it end, or end its session (pg_locks, locktype advisory)"
        ) from error
    except psycopg.OperationalError as error:
        raise RetryLater(f"PostgreSQL does not answer: {_first_line(error)}") from error
    log.info("schema_installed", migrations=applied)


def _install_roles(dsn: str, agents: Sequence[str], passwords: Passwords) -> None:
    with psycopg.connect(dsn) as connection:
        # Two at once would meet "tuple concurrently updated".
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ROLES_LOCK,))
        for agent in agents:
            connection.execute("SELECT flotilla_ops.create_agent_role(%s)", (agent,))
        for role, password in passwords.items():
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(role), sql.Literal(password.get_secret_value())
            )
            connection.execute(statement)


async def install_topics(settings: Settings) -> None:
    """Create or check the topics; where the settings ask for it, give the users of Kafka their rights.

    Raises:
        RetryLater: Kafka does not answer.
        ConfigurationError: a topic is there and can't hold the log, or rights can't be granted.
    """
    created = await ensure_topics(settings, replication_factor=settings.kafka_replication_factor)
    log.info("topics_installed", created=created)
    if settings.kafka_grant_rights:
        log.info("kafka_rights_granted", count=await grant_kafka_rights(settings))


async def install_groups(settings: Settings, passwords: Path | None = None) -> None:
    """Create the users of a file of passwords, and the consumer groups of the contract's streams, each at `0`.

    Raises:
        RetryLater: Redis does not answer.
        ConfigurationError: the file can't be read.
    """
    tasks = [(task_stream(agent), agent_group(agent)) for agent in settings.install_agents]
    replies = [(reply_stream(agent), BRIDGE_GROUP) for agent in settings.install_agents]
    created = await _ensure_groups(
        settings, _read_passwords(passwords), [(REPLIES_STREAM, BRIDGE_GROUP), *replies, *tasks]
    )
    log.info("groups_installed", created=created)


def _read_passwords(file: Path | None) -> dict[str, str]:
    if file is None or not file.exists():
        return {}
    try:
        return from_json(file.read_bytes(), dict[str, str])
    except (OSError, Undecodable) as error:
        raise ConfigurationError(f"{file} can't be read as user → password: {error}") from error


async def _ensure_groups(settings: Settings, passwords: dict[str, str], wanted: Sequence[tuple[str, str]]) -> list[str]:
    try:
        async with connect_redis(settings.redis_url.get_secret_value(), name="install") as redis:
            await check_redis(redis)
            await load_redis_functions(redis)
            await create_redis_users(redis, fleet_redis_permissions(settings.install_agents), passwords)
            return [group for stream, group in wanted if await ensure_group(redis, stream, group)]
    except AWAY as error:
        raise RetryLater(f"Redis does not answer: {error}") from error
    except RedisError as error:
        raise RetryLater(f"Redis refuses this client: {error} (check FLOTILLA_REDIS_URL and its user)") from error


async def install_keys(settings: Settings, options: "keys.RequestedKeyFiles") -> None:
    """Store the first admin key, and the keys of a local stack, where they are asked for.

    Raises:
        RetryLater: PostgreSQL does not answer.
        ConfigurationError: a file can't be written, or the admin key is too short.
    """
    dsn = settings.libpq_dsn()
    try:
        if settings.admin_key is not None:
            await asyncio.to_thread(keys.store_admin_key, dsn, settings.admin_key.get_secret_value())
        if options.api_keys is not None:
            await asyncio.to_thread(keys.write_local_keys, dsn, options.api_keys)
        for key in options.key_pairs:
            await asyncio.to_thread(keys.write_signing_key, key)
            await asyncio.to_thread(write_public_key, key, key.with_suffix(".pub"))
    except psycopg.OperationalError as error:
        raise RetryLater(f"PostgreSQL does not answer: {_first_line(error)}") from error
    except OSError as error:
        raise ConfigurationError(f"{error.filename or 'a key file'} can't be written: {error.strerror}") from error
    log.info("keys_installed", files=[str(path) for path in options.requested_files])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
