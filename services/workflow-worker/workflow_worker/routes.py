"""Which version of its agent a task goes to: decided once, by its session, and kept through tries, replays and crashes.

A version may get a share of the sessions (`percent`); those without one share the rest. Where a session falls depends
on its name alone, so that it stays with its version, also while the share grows. A version that is drained gets nothing
new. A task whose version has no live instance goes to another one, or to any.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import asyncpg
import structlog

from flotilla.contracts.json_types import JsonValue
from flotilla.postgres import Connection, Pool, retry_later_if_unavailable, tenant_transaction
from flotilla.telemetry.metrics import ROUTED_TASKS

ANY_VERSION = ""
"""Goes to whatever version is there."""
_ROUTES_MAX_AGE_S = 2.0
_BUCKET_COUNT = 100
# An instance says every 10 s that it is there.
_SELECT_ROUTES = "SELECT agent, version, percent, drained FROM flotilla_ops.agent_routes"
_SELECT_LIVE_VERSIONS = """
SELECT DISTINCT name, version FROM flotilla_ops.agents
WHERE name = ANY ($1) AND last_seen > now() - interval '30 seconds'
"""
# Keeps the version that an earlier publication or try of the task went to ($4 are those that are alive), else takes
# $5. Of two processes that publish the same task, the first decides: the other one waits for the row.
_STORE_ROUTED_VERSION = """
UPDATE flotilla.delegations AS d
SET version = CASE WHEN coalesce(d.version, e.version) = ANY ($4) THEN coalesce(d.version, e.version) ELSE $5 END
FROM (
    SELECT (
        SELECT l.version FROM flotilla.delegations AS l
        WHERE l.tenant_id = $1 AND l.task_id = $2 AND l.version IS NOT NULL ORDER BY l.attempt DESC LIMIT 1
    ) AS version
) AS e
WHERE d.tenant_id = $1 AND d.task_id = $2 AND d.attempt = $3
RETURNING d.version, e.version AS former
"""
# Of the slips that began with these tasks; the last try of a hop counts.
_SELECT_ROUTED_VERSIONS = """
SELECT root_task_id, agent, version FROM flotilla.delegations
WHERE tenant_id = $1 AND root_task_id = ANY ($2) AND version <> '' ORDER BY hop, attempt
"""
_SELECT_ROUTED_VERSIONS_OF_RUN = """
SELECT d.agent, d.version FROM flotilla.agent_tasks AS t JOIN flotilla.delegations AS d USING (tenant_id, task_id)
WHERE t.tenant_id = $1 AND t.run_id = $2 AND d.version <> '' ORDER BY d.opened_at
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VersionShare:
    """What is said about a version."""

    percent: int | None
    """Of the sessions; None: it shares what is left."""
    drained: bool


def choose_agent_version(session: str, shares: Mapping[str, VersionShare], live: Sequence[str]) -> str:
    """Return the version for a session: of those that are alive and not drained; `ANY` where there is none."""
    open_to = sorted(version for version in live if not (version in shares and shares[version].drained))
    if not open_to:
        return ANY_VERSION
    digest = int.from_bytes(sha256(session.encode()).digest()[:8])
    bucket, top = digest % _BUCKET_COUNT, 0
    for version in open_to:
        top += shares[version].percent or 0 if version in shares else 0
        if bucket < top:
            return version
    rest = [version for version in open_to if version not in shares or shares[version].percent is None]
    return (rest or open_to)[digest // _BUCKET_COUNT % len(rest or open_to)]


class RoutableHop(Protocol):
    """What is routed: an opened hop of a slip."""

    @property
    def agent(self) -> str:
        """Whose version is chosen."""

    @property
    def tenant_id(self) -> str:
        """Whose session it is."""

    @property
    def session_id(self) -> str:
        """What stays with its version."""

    @property
    def task_id(self) -> str:
        """For which the choice is kept."""

    @property
    def attempt(self) -> int:
        """Its try."""


async def load_routed_versions(
    connection: Connection, tenant_id: str, root_task_ids: Sequence[str]
) -> dict[str, dict[str, JsonValue]]:
    """Return which versions of agents worked at tasks, where a route decided about them: `{task: {agent: version}}`."""
    found: dict[str, dict[str, JsonValue]] = {}
    for row in await connection.fetch(_SELECT_ROUTED_VERSIONS, tenant_id, root_task_ids) if root_task_ids else ():
        found.setdefault(row["root_task_id"], {})[row["agent"]] = row["version"]
    return found


async def load_routed_versions_of_run(connection: Connection, tenant_id: str, run_id: str) -> dict[str, JsonValue]:
    """Return which versions of agents worked at a run, where a route decided about them."""
    return {
        row["agent"]: row["version"]
        for row in await connection.fetch(_SELECT_ROUTED_VERSIONS_OF_RUN, tenant_id, run_id)
    }


class AgentRoutes:
    """The routes of the fleet's agents, at most 2 s old."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._read_at = float("-inf")
        self._shares: dict[str, dict[str, VersionShare]] = {}
        self._live: dict[str, list[str]] = {}

    async def choose_version_for_hop(self, hop: RoutableHop) -> str | None:
        """Return the version that a hop goes to; None where it goes to any.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        with retry_later_if_unavailable():
            await self._refresh_routes()
            if hop.agent not in self._shares:
                return None
            live = self._live.get(hop.agent, [])
            wanted = choose_agent_version(f"{hop.tenant_id}/{hop.session_id}", self._shares[hop.agent], live)
            async with tenant_transaction(self._pool, hop.tenant_id, durable=False) as connection:
                row = await connection.fetchrow(
                    _STORE_ROUTED_VERSION, hop.tenant_id, hop.task_id, hop.attempt, live, wanted
                )
        return None if row is None else _count_and_log_route(hop, row)

    async def _refresh_routes(self) -> None:
        if time.monotonic() - self._read_at < _ROUTES_MAX_AGE_S:
            return
        shares: dict[str, dict[str, VersionShare]] = {}
        for row in await self._pool.fetch(_SELECT_ROUTES):
            shares.setdefault(row["agent"], {})[row["version"]] = VersionShare(row["percent"], row["drained"])
        live: dict[str, list[str]] = {}
        for row in await self._pool.fetch(_SELECT_LIVE_VERSIONS, list(shares)) if shares else ():
            live.setdefault(row["name"], []).append(row["version"])
        self._shares, self._live, self._read_at = shares, live, time.monotonic()


def _count_and_log_route(hop: RoutableHop, row: asyncpg.Record) -> str | None:
    version, former = row["version"], row["former"]
    how = "first" if former is None else "kept" if former == version else "moved"
    ROUTED_TASKS.labels(hop.agent, version or "any", how).inc()
    if how == "moved":
        log.warning(
            "agent_version_gone", agent=hop.agent, task_id=hop.task_id, former=former or "any", version=version or "any"
        )
    return version or None
