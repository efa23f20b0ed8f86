"""`flotilla agents`: who is in the fleet, and which versions get tasks."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import TableColumn, age
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Agents: who is in the fleet, and which versions get tasks.")
Name = Annotated[str, typer.Argument(metavar="AGENT", help="The agent.", show_default=False)]


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


@verb(
    app,
    "route",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla agents route write",
        "flotilla agents route write --version 2 --percent 10",
        "flotilla agents route write --version 1",
        "flotilla agents route write --clear",
    ),
)
def route_agent(
    call: VerbCall,
    agent: Name,
    version: Annotated[str | None, typer.Option("--version", help="The version that gets a share.")] = None,
    percent: Annotated[
        int | None,
        typer.Option("--percent", min=0, max=100, help="Its share of the sessions. Default: what the others leave."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Every version takes the tasks again.")] = False,
) -> None:
    """Show which versions of an agent get its tasks, or give one a share of the sessions."""
    if percent is not None and version is None:
        raise Misuse("--percent needs --version", f"flotilla agents route {agent} --version 2 --percent {percent}")
    if clear and version is not None:
        raise Misuse("--clear is about all versions", f"flotilla agents route {agent} --clear")
    path = f"/agents/{agent}/route"
    if clear:
        call.gateway.delete(path)
    if version is not None:
        call.gateway.put(path, {"version": version, "percent": percent})
    _show_route(call, agent)


@verb(app, "drain", acts_as=ADMIN, epilog=examples_epilog("flotilla agents drain write --version 1"))
def drain_agent(
    call: VerbCall,
    agent: Name,
    version: Annotated[str, typer.Option("--version", help="The version that gets no new tasks.")],
) -> None:
    """Give a version of an agent no new tasks; it ends those it has. `flotilla agents route` undoes it."""
    call.gateway.put(f"/agents/{agent}/route", {"version": version, "drained": True})
    _show_route(call, agent)


def _show_route(call: VerbCall, agent: str) -> None:
    call.print_listing(
        call.gateway.get(f"/agents/{agent}/route"), "versions", _ROUTE, f"No instance of {agent} is alive."
    )


def _share(version: Mapping[str, Any]) -> object:
    if version["drained"]:
        return "drained"
    return "rest" if version["percent"] is None else f"{version['percent']} %"


_ROUTE = (
    TableColumn("version", "version"),
    TableColumn("share", _share, "right"),
    TableColumn("instances", "instances", "right"),
    TableColumn("in flight", "in_flight", "right"),
    TableColumn("changed by", "changed_by"),
    TableColumn("changed", lambda version: age(version.get("changed_at"))),
)
