"""Keeps hold of entries whose handlers are still working: idle is not dead, but Redis counts from the read."""

from collections.abc import Sequence

from flotilla.bus.connection import Redis
from flotilla.bus.functions import MAX_IDS, RENEW_FUNCTION, RETURN_ENTRY_FUNCTION, call_redis_function


async def renew_entries(redis: Redis, stream: str, group: str, consumer: str, entry_ids: Sequence[str]) -> set[str]:
    """Renew what `consumer` still owns of `entry_ids`; give those that another one took or finished."""
    lost: set[str] = set()
    for first in range(0, len(entry_ids), MAX_IDS):
        some = entry_ids[first : first + MAX_IDS]
        lost |= {
            entry_id.decode()
            for entry_id in await call_redis_function(redis, RENEW_FUNCTION, stream, group, consumer, *some)
        }
    return lost


async def return_entry_to_pending(
    redis: Redis, stream: str, group: str, consumer: str, entry_id: str, *, idle_ms: int, deliveries: int
) -> None:
    """Leave the entry pending, as if idle for `idle_ms` and delivered `deliveries` times."""
    await call_redis_function(redis, RETURN_ENTRY_FUNCTION, stream, group, consumer, entry_id, idle_ms, deliveries)
