"""Which agents this fleet delegates to: their reply streams are the ones that bridges read."""

import asyncio

from flotilla.contracts.errors import RetryLater
from flotilla.postgres import AWAY, Pool

# An agent that was delegated to before is seen again once an hour at most.
_NOTE = """
INSERT INTO flotilla_ops.delegates AS d (agent) VALUES ($1)
ON CONFLICT (agent) DO UPDATE SET last_seen = now() WHERE d.last_seen < now() - interval '1 hour'
"""
_NAMES = "SELECT agent FROM flotilla_ops.delegates UNION SELECT name FROM flotilla_ops.agents"


class Delegates:
    """The agents that are registered or were delegated to."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._noted: set[str] = set()
        self.changed = asyncio.Event()
        """Set when this process delegates to an agent for the first time."""

    async def note(self, agent: str) -> None:
        """Makes every bridge of the fleet read the replies of `agent`.

        Raises:
            RetryLater: PostgreSQL is away.
        """
        if agent in self._noted:
            return
        try:
            await self._pool.execute(_NOTE, agent)
        except AWAY as error:
            raise RetryLater(f"PostgreSQL does not answer: {error}") from error
        self._noted.add(agent)
        self.changed.set()

    async def names(self) -> set[str]:
        """Every such agent.

        Raises:
            RetryLater: PostgreSQL is away.
        """
        try:
            return {row["agent"] for row in await self._pool.fetch(_NAMES)}
        except AWAY as error:
            raise RetryLater(f"PostgreSQL does not answer: {error}") from error
