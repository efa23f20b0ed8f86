"""One look at each server: does it answer, and is it set up as Flotilla needs it?

Each check gives what it saw, or raises a CliError with a hint. How to connect beside the address (certificates, logins,
tokens) is what the environment says, as for a service.
"""

import ssl
from typing import TYPE_CHECKING, Any

from flotilla_cli.errors import CliError
from flotilla_cli.local.certificates import check_client_certificate, start_http2_connection
from flotilla_cli.local.reasons import ServerVariables, hint_for_error

if TYPE_CHECKING:
    from flotilla.config import TemporalSettings

_MIN_REDIS = (7, 0)
_POSTGRES = ServerVariables("FLOTILLA_POSTGRES_DSN", "FLOTILLA_POSTGRES_CA_FILE")
_REDIS = ServerVariables("FLOTILLA_REDIS_URL", "ssl_ca_certs=PATH in the query of FLOTILLA_REDIS_URL")
_KAFKA = ServerVariables("FLOTILLA_KAFKA_BOOTSTRAP_SERVERS", "FLOTILLA_KAFKA_CA_FILE")
_TEMPORAL = ServerVariables("FLOTILLA_TEMPORAL_ADDRESS", "FLOTILLA_TEMPORAL_CA_FILE", "FLOTILLA_TEMPORAL_SERVER_NAME")


async def check_postgres(dsn: str) -> str:
    """Answers, and holds this version's schema."""
    import asyncpg
    from pydantic import SecretStr

    from flotilla.config import PostgresSettings, load_settings
    from flotilla.contracts.errors import RetryLater
    from flotilla.postgres import check_schema, open_service_pool

    settings = load_settings(PostgresSettings, postgres_dsn=SecretStr(dsn))
    async with open_service_pool(settings, application="flotilla-doctor") as pool:
        try:
            await check_schema(pool)
            version = await pool.fetchval("SHOW server_version")
        except (RetryLater, asyncpg.PostgresError) as error:
            hint = (
                hint_for_error(error, _POSTGRES)
                or "check FLOTILLA_POSTGRES_DSN; migrations: python -m flotilla.install"
            )
            raise CliError(str(error), hint) from error
    return f"PostgreSQL {version}, schema up to date{', through a pooler' if 'pooler=' in dsn else ''}"


async def check_redis(url: str) -> str:
    """Answers, takes writes, is new enough, and never evicts."""
    from flotilla.bus.connection import check_redis as check_primary
    from flotilla.bus.connection import connect_redis, execute_redis_command
    from flotilla.contracts.errors import RetryLater

    async with connect_redis(url, name="flotilla-doctor") as redis:
        try:
            await check_primary(redis)
        except RetryLater as error:
            raise CliError(
                str(error), hint_for_error(error, _REDIS) or "check FLOTILLA_REDIS_URL and its user"
            ) from error
        info: dict[str, Any] = await execute_redis_command(redis, "INFO")
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _MIN_REDIS:
        raise CliError(f"Redis {version} is too old", "install Redis 7.0 or newer, or Valkey")
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        hint = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration"
        raise CliError(f"maxmemory-policy is {policy}: tasks and replies may be evicted", hint)
    return f"Redis {version}, noeviction{', named by sentinels' if '+sentinel://' in url else ''}"


async def check_kafka(bootstrap_servers: str, **login: str) -> str:
    """Answers to this login, else that of the environment; has the topics of the permanent log, kept indefinitely."""
    from flotilla.config import KafkaSettings, load_settings
    from flotilla.contracts.errors import RetryLater
    from flotilla.kafka.topics import check_topics, log_topic_specs

    settings = load_settings(KafkaSettings, kafka_bootstrap_servers=bootstrap_servers, **login)
    check_client_certificate(settings.kafka_cert_file, "FLOTILLA_KAFKA_CERT_FILE")
    try:
        await check_topics(settings)
    except RetryLater as error:
        raise CliError(str(error), hint_for_error(error, _KAFKA) or _hint_of_kafka(str(error))) from error
    return ", ".join(
        f"{topic.name} ({topic.partitions} partitions, kept indefinitely)" for topic in log_topic_specs(settings)
    )


def _hint_of_kafka(problem: str) -> str:
    if "FLOTILLA_KAFKA_TOKEN_COMMAND" in problem:
        return "run the command by hand, as the service's user: it must print a token, or a token endpoint's JSON"
    if "uthentication" in problem:
        return "check FLOTILLA_KAFKA_USERNAME with its password, or that the brokers accept the token"
    return "check FLOTILLA_KAFKA_BOOTSTRAP_SERVERS, and that the broker runs"


async def check_temporal(address: str) -> str:
    """Answers, and has the namespace."""
    from temporalio.client import Client
    from temporalio.service import RPCError

    from flotilla import temporal
    from flotilla.config import TemporalSettings, load_settings
    from flotilla.contracts.errors import RetryLater

    settings = load_settings(TemporalSettings, temporal_address=address)
    namespace = settings.temporal_namespace
    check_client_certificate(settings.temporal_cert_file, "FLOTILLA_TEMPORAL_CERT_FILE")
    try:
        client = await Client.connect(address, **temporal.temporal_connection_options(settings))
        await temporal.check_temporal(client, address)
    except (RPCError, RuntimeError, RetryLater) as error:
        hint = "check FLOTILLA_TEMPORAL_ADDRESS, FLOTILLA_TEMPORAL_NAMESPACE and that the server runs"
        problem = f"Temporal at {address}, namespace {namespace}: {error}"
        raise CliError(problem, await _hint_of_tls(settings) or hint) from error
    return f"{address}, namespace {namespace}"


async def _hint_of_tls(settings: "TemporalSettings") -> str | None:
    """Temporal's client tells nothing of a handshake, so do one."""
    host, _, port = settings.temporal_address.rpartition(":")
    context = _context_of(settings)
    if context is None or not port.isdigit():
        return None
    try:
        await start_http2_connection(host.strip("[]"), int(port), context, settings.temporal_server_name)
    except OSError as error:  # ssl.SSLError and TimeoutError are ones
        return hint_for_error(error, _TEMPORAL)
    return None


def _context_of(settings: "TemporalSettings") -> ssl.SSLContext | None:
    given = (settings.temporal_ca_file, settings.temporal_cert_file, settings.temporal_server_name)
    if not (settings.temporal_tls or any(given)):
        return None
    context = ssl.create_default_context(cafile=settings.temporal_ca_file)
    if settings.temporal_cert_file and settings.temporal_key_file:
        context.load_cert_chain(settings.temporal_cert_file, settings.temporal_key_file)
    return context
