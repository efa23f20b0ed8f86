"""`flotilla agents`: who is in the fleet."""

from flotilla_cli.printing import TableColumn, age
from flotilla_cli.verb import VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Agents: who is in the fleet.")


@verb(app, "list", epilog=examples_epilog("flotilla agents list", "flotilla agents list -o json"))
def list_agents(call: VerbCall) -> None:
    """List the agents that registered themselves: version, stream, instances, work in flight, last seen."""
    call.print_listing(call.gateway.get("/agents"), "agents", _AGENTS, "No agent has registered yet.")


def _instances(agent: object) -> object:
    instances = agent.get("instances") if isinstance(agent, dict) else None
    return len(instances) if isinstance(instances, list) else instances


_AGENTS = (
    TableColumn("agent", "name"),
    TableColumn("version", "version"),
    TableColumn("stream", "stream"),
    TableColumn("group", "group"),
    TableColumn("instances", _instances, "right"),
    TableColumn("in flight", "in_flight", "right"),
    TableColumn("last seen", lambda agent: age(agent.get("last_seen"))),
)
