"""One look at each server: does it answer, and is it set up as Flotilla needs it?

Each check gives what it saw, or raises a CliError with a hint.
"""

from typing import Any

from flotilla_cli.errors import CliError

_MIN_REDIS = (7, 0)


async def check_postgres(dsn: str) -> str:
    """Answers, and holds this version's schema."""
    import asyncpg

    from flotilla.contracts.errors import RetryLater
    from flotilla.postgres import check_schema, open_pool

    async with open_pool(dsn, application="flotilla-doctor", max_size=1) as pool:
        try:
            await check_schema(pool)
            version = await pool.fetchval("SHOW server_version")
        except (RetryLater, asyncpg.PostgresError) as error:
            raise CliError(str(error), "check FLOTILLA_POSTGRES_DSN; migrations: python -m flotilla.install") from error
    return f"PostgreSQL {version}, schema up to date"


async def check_redis(url: str) -> str:
    """Answers, is new enough, and never evicts."""
    from flotilla.bus.connection import ask, connect_redis

    async with connect_redis(url, name="flotilla-doctor") as redis:
        info: dict[str, Any] = await ask(redis, "INFO")
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _MIN_REDIS:
        raise CliError(f"Redis {version} is too old", "install Redis 7.0 or newer, or Valkey")
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        hint = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration"
        raise CliError(f"maxmemory-policy is {policy}: tasks and replies may be evicted", hint)
    return f"Redis {version}, noeviction"


async def check_kafka(bootstrap_servers: str) -> str:
    """Answers, and has the topics of the permanent log, which keep everything indefinitely."""
    from flotilla.config import KafkaSettings
    from flotilla.contracts.errors import ConfigurationError, RetryLater
    from flotilla.kafka.topics import check_topics, topics_of

    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap_servers)
    try:
        await check_topics(settings)
    except RetryLater as error:
        raise CliError(str(error), "check FLOTILLA_KAFKA_BOOTSTRAP_SERVERS, and that the broker runs") from error
    except ConfigurationError as error:
        raise CliError(str(error), "alter the topic as it says") from error
    return ", ".join(
        f"{topic.name} ({topic.partitions} partitions, kept indefinitely)" for topic in topics_of(settings)
    )


async def check_temporal(address: str) -> str:
    """Answers, and has the namespace."""
    from temporalio.client import Client
    from temporalio.service import RPCError

    from flotilla import temporal
    from flotilla.config import TemporalSettings
    from flotilla.contracts.errors import ConfigurationError, RetryLater

    settings = TemporalSettings(temporal_address=address)
    namespace = settings.temporal_namespace
    try:
        client = await Client.connect(address, **temporal.connection_options(settings))
        await temporal.check_temporal(client, address)
    except (RPCError, RuntimeError, RetryLater, ConfigurationError) as error:
        hint = "check FLOTILLA_TEMPORAL_ADDRESS, FLOTILLA_TEMPORAL_NAMESPACE and that the server runs"
        raise CliError(f"Temporal at {address}, namespace {namespace}: {error}", hint) from error
    return f"{address}, namespace {namespace}"


def check_model(base_url: str, key: str, model: str) -> str:
    """The endpoint answers and takes the key."""
    import httpx

    try:
        answer = httpx.get(f"{base_url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"}, timeout=10)
    except httpx.HTTPError as error:
        raise CliError(f"{base_url}: {str(error) or type(error).__name__}", "check OPENAI_BASE_URL") from error
    if answer.status_code in (401, 403):
        raise CliError(f"{base_url} refuses the key ({answer.status_code})", "check OPENAI_API_KEY")
    if answer.is_error:
        return f"{base_url} answers {answer.status_code} to /models; model {model} is tried at the first question"
    return _served(base_url, model, answer)


def _served(base_url: str, model: str, answer: Any) -> str:
    try:
        names = [str(one.get("id")) for one in answer.json().get("data", [])]
    except (ValueError, AttributeError):
        names = []
    if names and model not in names:
        raise CliError(
            f"{base_url} does not serve {model}", f"set FLOTILLA_LLM_MODEL to one of: {', '.join(names[:10])}"
        )
    return f"{base_url} serves {model}"
