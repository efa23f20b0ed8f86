"""`flotilla actions`: governed actions, which may need somebody's approval."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, print_table, shorten_to_line
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Actions: what policy lets through at once, and what waits for the right person.")


class Risk(StrEnum):
    """What a caller may say about the risk; policy can only raise it."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@verb(
    app,
    "submit",
    epilog=examples_epilog(
        'flotilla actions submit --action echo --description "A trial" --arg text=hello',
        'flotilla actions submit --action publish_answer --description "Publish it" --risk high --arg run_id=0197…',
    ),
)
def submit_action(
    call: VerbCall,
    *,
    action: Annotated[str, typer.Option("--action", help="What to do: echo, http_request, publish_answer, …")],
    description: Annotated[str, typer.Option("--description", help="Why; the approver reads this.")],
    risk: Annotated[
        Risk,
        typer.Option("--risk", metavar="low|medium|high", help="At least this risk; policy may say more, never less."),
    ] = Risk.LOW,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", metavar="K=V", help="An argument, repeatable; V may be JSON: n=3, s='\"3\"'."),
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="The session that records it. Default: one of its own.")
    ] = None,
) -> None:
    """Submit an action. Low risk runs at once; medium and high wait for an approval by somebody else."""
    from flotilla_cli.arguments import parse_key_values

    body: dict[str, Any] = {"action": action, "description": description, "risk_level": risk.value}
    body["args"] = parse_key_values(arg or [])
    if session:
        body["session_id"] = session
    answer = call.gateway.post("/actions", body)
    call.show(answer, lambda: _print_submitted(answer))


def _print_submitted(answer: dict[str, Any]) -> None:
    print_fields(answer)
    print_notice(
        f"Its progress: flotilla actions get {answer['action_id']}   Pending approvals: flotilla approvals list"
    )


@verb(app, "list", epilog=examples_epilog("flotilla actions list", "flotilla actions list --status awaiting_approval"))
def list_actions(
    call: VerbCall,
    status: Annotated[str | None, typer.Option("--status", help="Only these.")] = None,
    limit: Limit = 50,
) -> None:
    """List actions, newest first."""
    page = call.gateway.list_all_pages("/actions", "actions", limit, status=status)
    call.print_listing(page, "actions", _ACTIONS, "No action.")


_ACTIONS = (
    TableColumn("id", "action_id"),
    TableColumn("action", "action"),
    TableColumn("description", lambda action: shorten_to_line(action.get("description", ""), 50)),
    TableColumn("risk", "risk_level"),
    TableColumn("requested by", "requested_by"),
    TableColumn("status", "status"),
    TableColumn("created", lambda action: age(action.get("created_at"))),
)


@verb(app, "get", epilog=examples_epilog("flotilla actions get 0197…"))
def get_action(
    call: VerbCall, action_id: Annotated[str, typer.Argument(metavar="ID", help="The action's id.", show_default=False)]
) -> None:
    """Show an action: where it is, what was decided, what came of it."""
    action = call.gateway.get(f"/actions/{action_id}")
    call.show(action, lambda: _print_action(action))


def _print_action(action: dict[str, Any]) -> None:
    print_fields({name: value for name, value in action.items() if name != "votes"})
    print_votes(action.get("votes") or [])


def print_votes(votes: list[dict[str, Any]]) -> None:
    """Who decided what; nothing when nobody did."""
    if votes:
        print_table(votes, _VOTES, "")


_VOTES = (
    TableColumn("who", "subject"),
    TableColumn("decision", "decision"),
    TableColumn("reason", "reason"),
    TableColumn("authenticated", lambda vote: vote.get("authenticated", True)),
)


@verb(app, "cancel", epilog=examples_epilog("flotilla actions cancel 0197…"))
def cancel_action(
    call: VerbCall, action_id: Annotated[str, typer.Argument(metavar="ID", help="The action's id.", show_default=False)]
) -> None:
    """Call off an action that is not executed yet."""
    answer = call.gateway.post(f"/actions/{action_id}/cancel")
    said = "was called off already" if answer["status"] == "cancelled" else "is being called off"
    call.show(answer, lambda: print_notice(f"Action {action_id} {said}.", style=None))
