"""What the workflow `supervise` may choose among: registered agents, and the actions that its caller allows."""

import json

import asyncpg
from pydantic import TypeAdapter
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.actions.arguments import load_action_argument_types
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.mcp import MCP_AGENT
from flotilla.contracts.planning import PLANNER_AGENT, OfferedTool
from flotilla.postgres import Pool
from flotilla.workflows.calls.supervision import OFFER_TOOLS, Offer, OfferTools

MAX_TOOL_DESCRIPTION_CHARS = 1000
# Each agent as the instance that started last has it. One that was not seen for a quarter of an hour answers nothing.
_SELECT_LIVE_AGENTS = """
SELECT DISTINCT ON (name) name, input_schema FROM flotilla_ops.agents
WHERE last_seen > now() - interval '15 minutes' ORDER BY name, started_at DESC, instance
"""


class SupervisionActivities:
    """The activity behind `supervise`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @activity.defn(name=OFFER_TOOLS)
    async def offer_tools(self, wanted: OfferTools) -> Offer:
        """Return the agents and actions that may be chosen, and whether there is an agent that asks a model.

        Raises:
            ApplicationError: `Invalid`: one that was named is not there.
        """
        found = {row["name"]: _offered_agent(row) for row in await self._pool.fetch(_SELECT_LIVE_AGENTS)}
        planner = found.pop(PLANNER_AGENT, None)
        actions = {
            name: _offered_action(name, kind)
            for name, kind in load_action_argument_types().items()
            if name in wanted.actions
        }
        missing = [*(set(wanted.agents) - found.keys()), *(set(wanted.actions) - actions.keys())]
        if missing:
            raise ApplicationError(
                f"no agent or action is called {', '.join(sorted(missing))}", type="Invalid", non_retryable=True
            )
        # The tools of MCP servers are not on offer with all agents: who wants them names their agent.
        agents = wanted.agents or found.keys() - {MCP_AGENT}
        offered = {name: tool for name, tool in found.items() if name in agents}
        return Offer(tools=list({**offered, **actions}.values()), planner=planner is not None)


def _offered_agent(row: asyncpg.Record) -> OfferedTool:
    schema: JsonObject = json.loads(row["input_schema"])
    return _offered_tool(row["name"], "agent", schema)


def _offered_action(name: str, kind: type) -> OfferedTool:
    return _offered_tool(name, "action", TypeAdapter(kind).json_schema())


def _offered_tool(name: str, kind: str, schema: JsonObject) -> OfferedTool:
    description = str(schema.get("description") or f"The {kind} {name}.")[:MAX_TOOL_DESCRIPTION_CHARS]
    return OfferedTool(name=name, kind="agent" if kind == "agent" else "action", description=description, schema=schema)
