"""`flotilla actions`: governed actions, which may need somebody's approval."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from flotilla_cli.printing import Column, age, notice, print_fields, print_table, shorten
from flotilla_cli.verb import Call, Limit, examples, new_app, verb

app = new_app("Actions: what policy lets through at once, and what waits for the right person.")


class Risk(StrEnum):
    """What a caller may say about the risk; policy can only raise it."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@verb(
    app,
    "submit",
    epilog=examples(
        'flotilla actions submit --action echo --description "A trial" --arg text=hello',
        'flotilla actions submit --action publish_answer --description "Publish it" --risk high --arg run_id=0197…',
    ),
)
def submit_action(
    call: Call,
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
    from flotilla_cli.arguments import read_pairs

    body: dict[str, Any] = {"action": action, "description": description, "risk_level": risk.value}
    body["args"] = read_pairs(arg or [])
    if session:
        body["session_id"] = session
    answer = call.gateway.post("/actions", body)
    call.show(answer, lambda: _print_submitted(answer))


def _print_submitted(answer: dict[str, Any]) -> None:
    print_fields(answer)
    notice(f"Its progress: flotilla actions get {answer['action_id']}   Pending approvals: flotilla approvals list")


@verb(app, "list", epilog=examples("flotilla actions list", "flotilla actions list --status awaiting_approval"))
def list_actions(
    call: Call,
    status: Annotated[str | None, typer.Option("--status", help="Only these.")] = None,
    limit: Limit = 50,
) -> None:
    """List actions, newest first."""
    page = call.gateway.pages("/actions", "actions", limit, status=status)
    call.listing(page, "actions", _ACTIONS, "No action.")


_ACTIONS = (
    Column("id", "action_id"),
    Column("action", "action"),
    Column("description", lambda action: shorten(action.get("description", ""), 50)),
    Column("risk", "risk_level"),
    Column("requested by", "requested_by"),
    Column("status", "status"),
    Column("created", lambda action: age(action.get("created_at"))),
)


@verb(app, "get", epilog=examples("flotilla actions get 0197…"))
def get_action(
    call: Call, action_id: Annotated[str, typer.Argument(metavar="ID", help="The action's id.", show_default=False)]
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
    Column("who", "subject"),
    Column("decision", "decision"),
    Column("reason", "reason"),
    Column("authenticated", lambda vote: vote.get("authenticated", True)),
)


@verb(app, "cancel", epilog=examples("flotilla actions cancel 0197…"))
def cancel_action(
    call: Call, action_id: Annotated[str, typer.Argument(metavar="ID", help="The action's id.", show_default=False)]
) -> None:
    """Call off an action that is not executed yet."""
    answer = call.gateway.post(f"/actions/{action_id}/cancel")
    said = "was called off already" if answer["status"] == "cancelled" else "is being called off"
    call.show(answer, lambda: notice(f"Action {action_id} {said}.", style=None))
