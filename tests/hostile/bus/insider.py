"""A hostile agent: the Redis user that `flotilla.bus.acl` prints for it, and whatever it likes to send."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError, RedisError

from flotilla.bus import Redis, connect_redis
from flotilla.bus.connection import execute_redis_command
from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.names import reply_stream
from tests.support.redis_users import url_of

AGENT = "mallory"
VICTIM = "research"
MAX_ID = "18446744073709551615-18446744073709551615"


@dataclass
class Insider:
    """What the hostile agent holds: a connection as its own user."""

    redis: Redis

    async def attempt(self, *command: str | int | bytes) -> str:
        """Send one command; give what the attacker sees: `refused`, `error` or `done`."""
        try:
            await execute_redis_command(self.redis, *command)
        except NoPermissionError:
            return "refused"
        except RedisError:
            return "error"
        return "done"

    async def reply(self, **data: Any) -> None:
        """Send a reply on its own stream."""
        await self.redis.xadd(reply_stream(AGENT), {"event": reply_event(**data)})


def reply_event(**data: Any) -> str:
    """A reply with these data, as its entry holds it."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": new_id(),
            "type": "flotilla.task.replied.v1",
            "source": f"/agents/{data.get('agent', AGENT)}",
            "subject": data.get("session_id", ""),
            "time": utc_now().isoformat(),
            "data": data,
        }
    )


@asynccontextmanager
async def insider(redis_url: str, user: str = f"{AGENT}-agent") -> AsyncIterator[Insider]:
    """The hostile agent's connection, as long as the block."""
    async with connect_redis(await url_of(redis_url, user)) as redis:
        yield Insider(redis)
