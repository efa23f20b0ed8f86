"""`flotilla outbox`: events on their way to the permanent log."""

from typing import Annotated, Any

import typer

from flotilla_cli.printing import TableColumn, age, print_fields, print_table, say, shorten_to_line
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Outbox: committed events on their way to the permanent log.")


@verb(app, "status", acts_as=ADMIN, epilog=examples_epilog("flotilla outbox status -o json"))
def outbox_status(call: VerbCall) -> None:
    """Show the backlog, the oldest event that waits, and sessions that are parked."""
    status = call.gateway.get("/outbox")
    call.show(status, lambda: _print_status(status))


def _print_status(status: dict[str, Any]) -> None:
    print_fields({name: value for name, value in status.items() if name != "parked"})
    if parked := status.get("parked"):
        say()
        print_table(parked, _PARKED, "")


_PARKED = (
    TableColumn("session", "session_id"),
    TableColumn("event", "seq", "right"),
    TableColumn("waiting", "waiting", "right"),
    TableColumn("since", lambda parked: age(parked.get("parked_at"))),
    TableColumn("error", lambda parked: shorten_to_line(parked.get("error", ""))),
)


@verb(
    app,
    "redrive",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla outbox redrive s1", "flotilla outbox redrive s1 --tombstone"),
)
def redrive(
    call: VerbCall,
    session: Annotated[str, typer.Argument(metavar="S", help="The parked session.", show_default=False)],
    tombstone: Annotated[
        bool, typer.Option("--tombstone", help="Publish an error event in the refused one's place.")
    ] = False,
) -> None:
    """Let a parked session go on, with the same event or with a tombstone in its place."""
    answer = call.gateway.post(f"/outbox/{session}/redrive", {"tombstone": True} if tombstone else {})
    call.show(answer, lambda: print_fields(answer))
