"""`flotilla workflows`: which workflows can be started."""

import json
from typing import Annotated, Any

import typer

from flotilla_cli.printing import Column, age, print_fields, say, shorten
from flotilla_cli.verb import Call, examples, new_app, verb

app = new_app("Workflows: what installed packages add to questions.")


@verb(app, "list", epilog=examples("flotilla workflows list", "flotilla workflows list -o json"))
def list_workflows(call: Call) -> None:
    """List the workflows that workers serve: version, workers, task queue, last seen."""
    nothing = "No worker serves a workflow; write one with: flotilla new workflow NAME"
    call.listing(call.gateway.get("/workflows"), "workflows", _WORKFLOWS, nothing)


_WORKFLOWS = (
    Column("workflow", "name"),
    Column("version", "version"),
    Column("workers", "instances", "right"),
    Column("task queue", "task_queue"),
    Column("last seen", lambda workflow: age(workflow.get("last_seen"))),
    Column("what it does", lambda workflow: shorten(workflow.get("description") or "-")),
)


@verb(app, "show", epilog=examples("flotilla workflows show brief", "flotilla workflows show brief -o json"))
def show_workflow(
    call: Call, name: Annotated[str, typer.Argument(metavar="NAME", help="The workflow's name.", show_default=False)]
) -> None:
    """Show a workflow: what it takes and what it returns, as JSON schemas."""
    workflow = call.gateway.get(f"/workflows/{name}")
    call.show(workflow, lambda: _print_workflow(workflow))


def _print_workflow(workflow: dict[str, Any]) -> None:
    schemas = ("input_schema", "output_schema")
    print_fields({name: value for name, value in workflow.items() if name not in schemas})
    for name in schemas:
        say()
        say(f"{name.removesuffix('_schema')}:")
        say(json.dumps(workflow[name], indent=2, ensure_ascii=False))
