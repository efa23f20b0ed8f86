"""`flotilla agents`: who is in the fleet."""

from flotilla_cli.printing import Column, age
from flotilla_cli.verb import Call, examples, new_app, verb

app = new_app("Agents: who is in the fleet.")


@verb(app, "list", epilog=examples("flotilla agents list", "flotilla agents list -o json"))
def list_agents(call: Call) -> None:
    """List the agents that registered themselves: version, stream, instances, work in flight, last seen."""
    call.listing(call.gateway.get("/agents"), "agents", _AGENTS, "No agent has registered yet.")


def _instances(agent: object) -> object:
    instances = agent.get("instances") if isinstance(agent, dict) else None
    return len(instances) if isinstance(instances, list) else instances


_AGENTS = (
    Column("agent", "name"),
    Column("version", "version"),
    Column("stream", "stream"),
    Column("group", "group"),
    Column("instances", _instances, "right"),
    Column("in flight", "in_flight", "right"),
    Column("last seen", lambda agent: age(agent.get("last_seen"))),
)
