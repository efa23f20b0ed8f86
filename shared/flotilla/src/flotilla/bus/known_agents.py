"""Which agents a task may go to. A task for an invented one would leave a stream and metrics of that name for good."""

from collections.abc import Sequence

from redis.exceptions import ResponseError

from flotilla.bus.connection import Redis
from flotilla.contracts.errors import Invalid
from flotilla.contracts.names import task_stream
from flotilla.postgres import Pool

_SELECT_REGISTERED_AGENTS = "SELECT DISTINCT name FROM flotilla_ops.agents"
_MAX_NAMES_IN_MESSAGE = 20
"""How many the refusal names."""


class UnknownAgent(Invalid):
    """The fleet has no agent of that name."""

    code = "unknown_agent"


class KnownAgents:
    """Those that registered once, those of the settings, and those that read a stream without having registered."""

    def __init__(self, pool: Pool, redis: Redis, configured: Sequence[str]) -> None:
        self._pool = pool
        self._redis = redis
        self._known = set(configured)
        self._registered: set[str] = set()

    async def check_agents_are_known(self, agents: Sequence[str]) -> None:
        """Raise UnknownAgent for one that is not known; name those that are."""
        if self._known.issuperset(agents):
            return
        self._known.update(await self._load_registered())
        for agent in sorted(set(agents) - self._known):
            if not await self._has_task_stream(agent):
                raise UnknownAgent(f"no agent {agent}: there are {self._format_known_names()}")
            self._known.add(agent)

    async def are_registered(self, agents: Sequence[str]) -> bool:
        """Whether all of these were built with the library: they register, and reach the database."""
        return self._registered.issuperset(agents) or (await self._load_registered()).issuperset(agents)

    async def _load_registered(self) -> set[str]:
        self._registered = {row["name"] for row in await self._pool.fetch(_SELECT_REGISTERED_AGENTS)}
        return self._registered

    async def _has_task_stream(self, agent: str) -> bool:
        try:
            await self._redis.xinfo_groups(task_stream(agent))
        except ResponseError:  # no such key
            return False
        return True

    def _format_known_names(self) -> str:
        names = sorted(self._known)
        more = f" and {len(names) - _MAX_NAMES_IN_MESSAGE} more" if len(names) > _MAX_NAMES_IN_MESSAGE else ""
        return ", ".join(names[:_MAX_NAMES_IN_MESSAGE]) + more
