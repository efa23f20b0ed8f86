"""Which agents this fleet delegates to: their reply streams are the ones that bridges read."""

import asyncio

from flotilla.postgres import Connection, Pool, retry_later_if_unavailable

# An agent that was delegated to before is seen again once an hour at most.
_INSERT_DELEGATE = """
INSERT INTO flotilla_ops.delegates AS d (agent) VALUES ($1)
ON CONFLICT (agent) DO UPDATE SET last_seen = now() WHERE d.last_seen < now() - interval '1 hour'
"""
_SELECT_AGENT_NAMES = "SELECT agent FROM flotilla_ops.delegates UNION SELECT name FROM flotilla_ops.agents"
# As each agent registered it, within reason: NaN is above every number.
_SELECT_AGENT_TIME_LIMITS = """
SELECT name, max(least(timeout_s, $1)) AS timeout_s FROM flotilla_ops.agents WHERE timeout_s > 0 GROUP BY name
"""
MAX_AGENT_TIME_LIMIT_S = 30 * 86_400.0
"""The most that an agent gets for a task: what a workflow can add to a date."""


async def load_agent_time_limits(connection: Connection) -> dict[str, float]:
    """How long, in seconds, a task of each registered agent may take."""
    return {
        row["name"]: row["timeout_s"]
        for row in await connection.fetch(_SELECT_AGENT_TIME_LIMITS, MAX_AGENT_TIME_LIMIT_S)
    }


class KnownDelegates:
    """The agents that are registered or were delegated to."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._noted: set[str] = set()
        self.changed = asyncio.Event()
        """Set when this process delegates to an agent for the first time."""

    async def note_delegate(self, agent: str) -> None:
        """Makes every bridge of the fleet read the replies of `agent`.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        if agent in self._noted:
            return
        with retry_later_if_unavailable():
            await self._pool.execute(_INSERT_DELEGATE, agent)
        self._noted.add(agent)
        self.changed.set()

    async def agent_names(self) -> set[str]:
        """Every such agent.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        with retry_later_if_unavailable():
            return {row["agent"] for row in await self._pool.fetch(_SELECT_AGENT_NAMES)}
