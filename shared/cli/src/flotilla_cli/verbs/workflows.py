"""`flotilla workflows`: which workflows can be started."""

import json
from typing import Annotated, Any

import typer

from flotilla_cli.printing import TableColumn, age, print_fields, say, shorten_to_line
from flotilla_cli.verb import VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Workflows: what installed packages add to questions.")


@verb(app, "list", epilog=examples_epilog("flotilla workflows list", "flotilla workflows list -o json"))
def list_workflows(call: VerbCall) -> None:
    """List the workflows that workers serve: version, workers, task queue, last seen."""
    nothing = "No worker serves a workflow; write one with: flotilla new workflow NAME"
    call.print_listing(call.gateway.get("/workflows"), "workflows", _WORKFLOWS, nothing)


_WORKFLOWS = (
    TableColumn("workflow", "name"),
    TableColumn("version", "version"),
    TableColumn("workers", "instances", "right"),
    TableColumn("task queue", "task_queue"),
    TableColumn("last seen", lambda workflow: age(workflow.get("last_seen"))),
    TableColumn("what it does", lambda workflow: shorten_to_line(workflow.get("description") or "-")),
)


@verb(app, "show", epilog=examples_epilog("flotilla workflows show brief", "flotilla workflows show brief -o json"))
def show_workflow(
    call: VerbCall,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The workflow's name.", show_default=False)],
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
