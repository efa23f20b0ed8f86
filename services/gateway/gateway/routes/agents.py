"""Agents: who is in the fleet, and which of their versions get tasks."""

from itertools import groupby
from operator import itemgetter

import asyncpg

from flotilla.postgres import tenant_transaction
from gateway.auth.principal import ADMINS, EVERYONE
from gateway.fleet import routes
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.runs.askable import registered_schema
from gateway.schemas.agents import Agent, AgentInstance, AgentList, AgentRoute, RouteBody
from gateway.schemas.common import ResourceId
from gateway.services import Caller, Wired

router = guarded_router("agents")
_NOT_YOURS = "agents serve all tenants: only the operator's tenant may route their tasks"
# The newest instance of each first.
_LIST_AGENTS = """
SELECT name, instance, version, stream, consumer_group, concurrency, in_flight, input_schema, output_schema, started_at,
    last_seen, last_seen > now() - interval '1 minute' AS alive
FROM flotilla_ops.agents
ORDER BY name, started_at DESC, instance
"""


@router.get("/v1/agents", response_model=AgentList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_agents(services: Wired, _caller: Caller) -> AgentList:
    """List the agents that registered themselves."""
    rows = await services.pool.fetch(_LIST_AGENTS)
    return AgentList(agents=[_agent(list(group)) for _, group in groupby(rows, itemgetter("name"))])


@router.get("/v1/agents/{agent_name}/route", response_model=AgentRoute, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_route(services: Wired, caller: Caller, agent_name: ResourceId) -> AgentRoute:
    """Show which versions of an agent get its tasks, and which are alive."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await routes.get_route(connection, agent_name)


@router.put("/v1/agents/{agent_name}/route", response_model=AgentRoute, responses=documented_errors(404, 409, 413, 415))
@allow(ADMINS)
async def put_route(services: Wired, caller: Caller, agent_name: ResourceId, body: RouteBody) -> AgentRoute:
    """Give a version of an agent a share of the sessions, or drain it. For new tasks, within 2 s; a session stays with
    its version while the share grows."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await routes.put_version(connection, caller, agent_name, body)


@router.delete("/v1/agents/{agent_name}/route", status_code=204, responses=documented_errors(404))
@allow(ADMINS)
async def clear_route(services: Wired, caller: Caller, agent_name: ResourceId) -> None:
    """Let every version take the agent's tasks again."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await routes.clear(connection, caller, agent_name)


def _agent(rows: list[asyncpg.Record]) -> Agent:
    newest = rows[0]
    alive = [row for row in rows if row["alive"]]
    return Agent(
        name=newest["name"],
        version=newest["version"],
        stream=newest["stream"],
        group=newest["consumer_group"],
        instances=len(alive),
        in_flight=sum(row["in_flight"] for row in alive),
        last_seen=max(row["last_seen"] for row in rows),
        input_schema=registered_schema(newest["input_schema"]),
        output_schema=registered_schema(newest["output_schema"]),
        members=[AgentInstance.model_validate(dict(row)) for row in alive],
    )
