"""Which versions of an agent get its tasks, as the gateway reads and writes it."""

import asyncpg

from flotilla.audit import admin_log
from flotilla.contracts.errors import Conflict, NotFound
from flotilla.postgres import Connection
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.schemas.agents import AgentRoute, RouteBody, RoutedVersion

# What is said about each version, and which are alive.
_SELECT_VERSIONS_AGENT_ROUTES = """
SELECT version, r.percent, coalesce(r.drained, false) AS drained, r.changed_by, r.changed_at,
    coalesce(a.instances, 0) AS instances, coalesce(a.in_flight, 0) AS in_flight
FROM (SELECT * FROM flotilla_ops.agent_routes WHERE agent = $1) AS r
FULL JOIN (
    SELECT version, count(*) AS instances, sum(in_flight) AS in_flight FROM flotilla_ops.agents
    WHERE name = $1 AND last_seen > now() - interval '30 seconds' GROUP BY version
) AS a USING (version)
ORDER BY version
"""
_IS_KNOWN = "SELECT EXISTS (SELECT FROM flotilla_ops.agents WHERE name = $1)"
# One change of an agent's route after the other: their sum must stay below 100.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('flotilla.agent_routes/' || $1, 0))"
_UPSERT_AGENT_ROUTES = """
INSERT INTO flotilla_ops.agent_routes (agent, version, percent, drained, changed_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (agent, version) DO UPDATE SET percent = excluded.percent, drained = excluded.drained,
    changed_by = excluded.changed_by, changed_at = now()
"""
_SELECT_SUM_AGENT_ROUTES = "SELECT sum(percent) FROM flotilla_ops.agent_routes WHERE agent = $1 AND NOT drained"
_DELETE_AGENT_ROUTES = "DELETE FROM flotilla_ops.agent_routes WHERE agent = $1 RETURNING version"
_ALL = 100


class TooMuchRouted(Conflict):
    """The shares of an agent's versions are more than all sessions."""

    code = "too_much_routed"


async def get_route(connection: Connection, agent: str) -> AgentRoute:
    """Return what is said about an agent's versions, and which are alive.

    Raises:
        NotFound: no agent of that name has registered.
    """
    versions = [_version(row) for row in await connection.fetch(_SELECT_VERSIONS_AGENT_ROUTES, agent)]
    if not versions and not await connection.fetchval(_IS_KNOWN, agent):
        raise NotFound(f"no agent {agent} has registered: GET /v1/agents lists those that have")
    return AgentRoute(agent=agent, versions=versions)


async def put_version(connection: Connection, caller: Principal, agent: str, body: RouteBody) -> AgentRoute:
    """Say what share of the sessions a version gets, or that it is drained, and record who did.

    Raises:
        NotFound: no agent of that name has registered.
        TooMuchRouted: the shares are more than 100 percent.
    """
    await connection.execute(_LOCK, agent)
    await get_route(connection, agent)
    await connection.execute(_UPSERT_AGENT_ROUTES, agent, body.version, body.percent, body.drained, caller.subject)
    routed = await connection.fetchval(_SELECT_SUM_AGENT_ROUTES, agent) or 0
    if routed > _ALL:
        raise TooMuchRouted(f"the versions of agent {agent} would get {routed} percent: lower another one first")
    details = {"agent": agent, "version": body.version, "percent": body.percent, "drained": body.drained, **caller.by}
    route = await get_route(connection, agent)
    await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, ("agent_route_changed", details))
    return route


async def clear(connection: Connection, caller: Principal, agent: str) -> None:
    """Let every version take the agent's tasks again, and record who did.

    Raises:
        NotFound: nothing is said about its versions.
    """
    await connection.execute(_LOCK, agent)
    if not await connection.fetch(_DELETE_AGENT_ROUTES, agent):
        raise NotFound(f"agent {agent} has no route: every version takes its tasks")
    details = {"agent": agent, **caller.by}
    await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, ("agent_route_cleared", details))


def _version(row: asyncpg.Record) -> RoutedVersion:
    return RoutedVersion.model_validate(dict(row))
