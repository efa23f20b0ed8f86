"""Consumer groups."""

from redis.exceptions import ResponseError

from flotilla.bus.connection import Redis, execute_redis_command
from flotilla.bus.functions import RETIRE_CONSUMER_FUNCTION, call_redis_function


async def ensure_group(redis: Redis, stream: str, group: str) -> bool:
    """Make `group` at the stream's beginning, and the stream if need be; whether it was missing.

    At `0`, so that what was published before the first consumer ever started is handled.
    """
    try:
        await execute_redis_command(redis, "XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
    except ResponseError as error:
        if str(error).startswith("BUSYGROUP"):
            return False
        raise
    return True


def is_group_missing_error(error: ResponseError) -> bool:
    """Whether a command failed because stream or group are gone; Redis 7.0 answers a blocked read UNBLOCKED."""
    return str(error).startswith(("NOGROUP", "UNBLOCKED")) or "no such key" in str(error)


async def entry_exists(redis: Redis, stream: str, entry_id: str) -> bool:
    """Whether the entry still stands in the stream: handled ones are trimmed away."""
    return bool(await execute_redis_command(redis, "XRANGE", stream, entry_id, entry_id, "COUNT", 1))


async def retire_idle_consumer(redis: Redis, stream: str, group: str, consumer: str, *, min_idle_ms: int = 0) -> bool:
    """Remove `consumer` if nothing is pending for it and it was silent for `min_idle_ms`; whether it did."""
    try:
        return bool(await call_redis_function(redis, RETIRE_CONSUMER_FUNCTION, stream, group, consumer, min_idle_ms))
    except ResponseError as error:
        if is_group_missing_error(error):
            return False
        raise
