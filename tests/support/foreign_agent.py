"""An agent that knows only Redis and the envelope, as one in another language would."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from redis.exceptions import ResponseError

from flotilla.bus import Redis, ensure_group
from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.names import agent_group, reply_stream, task_stream
from tests.support.postgres import Database

Task: TypeAlias = dict[str, Any]
Answer: TypeAlias = Callable[[Task], Awaitable[dict[str, Any] | None]]
"""Gives the reply's own fields (`status`, `result`, ...), or None for no reply at all."""


class ForeignAgent:
    """Reads one task stream; keeps every task it saw."""

    def __init__(self, redis: Redis, name: str, answer: Answer, version: str | None = None) -> None:
        self._redis = redis
        self.name = name
        self.answer = answer
        self._version = version
        self.seen: list[Task] = []
        self.stopping = False
        self.spelling: Callable[[str], str | bytes] = str
        """Changes the JSON text of its replies."""

    async def run(self) -> None:
        stream, group = task_stream(self.name, self._version), agent_group(self.name)
        while not self.stopping:
            await ensure_group(self._redis, stream, group)
            try:
                found: Any = await self._redis.xreadgroup(group, "foreign", {stream: ">"}, count=10, block=200)
            except ResponseError:
                continue  # Redis was emptied under the read
            for entry_id, fields in found[0][1] if found else []:
                task = json.loads(fields[b"event"])["data"]
                self.seen.append(task)
                if reply := await self.answer(task):
                    await self.reply(task, **reply)
                await self._redis.xack(stream, group, entry_id)

    async def reply(self, task: Task, **fields: Any) -> None:
        """Sends a reply to `task`."""
        same = ("task_id", "agent", "tenant_id", "session_id", "run_id", "attempt", "reply_to")
        data = {name: task[name] for name in same if task.get(name) is not None} | fields
        event = {
            "specversion": "1.0",
            "id": new_id(),
            "type": "flotilla.task.replied.v1",
            "source": f"/agents/{self.name}",
            "subject": task["session_id"],
            "time": utc_now().isoformat(),
            "data": data,
        }
        await self._redis.xadd(reply_stream(self.name), {"event": self.spelling(json.dumps(event))})


@asynccontextmanager
async def foreign_agent(
    redis: Redis, name: str, answer: Answer, version: str | None = None
) -> AsyncIterator[ForeignAgent]:
    """A foreign agent that lives as long as the block; with a version, one that gets what is routed to it."""
    agent = ForeignAgent(redis, name, answer, version)
    task = asyncio.create_task(agent.run(), name=f"foreign agent {name}")
    try:
        yield agent
    finally:
        # A read that is cut off could still be given an entry, which nobody would then handle.
        agent.stopping = True
        await asyncio.wait([task], timeout=1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def route_to_a_version(database: Database, name: str, version: str) -> None:
    """Route all sessions to one version of an agent, and register an instance of it."""
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        await connection.execute(
            "INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, "
            "input_schema, output_schema) VALUES ($1, $2, $2, 's', 'g', 8, '{}', '{}')",
            name,
            version,
        )
        await connection.execute(
            "INSERT INTO flotilla_ops.agent_routes VALUES ($1, $2, 100, false, 'ada')", name, version
        )
    finally:
        await connection.close()
