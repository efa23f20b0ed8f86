"""Agents: who is in the fleet."""

import json
from itertools import groupby
from operator import itemgetter

import asyncpg

from gateway.auth.principal import EVERYONE
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.agents import Agent, AgentInstance, AgentList
from gateway.services import Caller, Wired

router = guarded_router("agents")
# The newest instance of each first.
_LIST = """
SELECT name, instance, version, stream, consumer_group, concurrency, in_flight, input_schema, output_schema, started_at,
    last_seen, last_seen > now() - interval '1 minute' AS alive
FROM flotilla_ops.agents
ORDER BY name, started_at DESC, instance
"""


@router.get("/v1/agents", response_model=AgentList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_agents(services: Wired, _caller: Caller) -> AgentList:
    """List the agents that registered themselves."""
    rows = await services.pool.fetch(_LIST)
    return AgentList(agents=[_agent(list(group)) for _, group in groupby(rows, itemgetter("name"))])


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
        input_schema=json.loads(newest["input_schema"]),
        output_schema=json.loads(newest["output_schema"]),
        members=[AgentInstance.model_validate(dict(row)) for row in alive],
    )
