"""`flotilla outbox`: events on their way to the permanent log."""

from typing import Annotated, Any

import typer

from flotilla_cli.printing import Column, age, print_fields, print_table, say, shorten
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Call, examples, new_app, verb

app = new_app("Outbox: committed events on their way to the permanent log.")


@verb(app, "status", acts_as=ADMIN, epilog=examples("flotilla outbox status -o json"))
def outbox_status(call: Call) -> None:
    """Show the backlog, the oldest event that waits, and sessions that are parked."""
    status = call.gateway.get("/outbox")
    call.show(status, lambda: _print_status(status))


def _print_status(status: dict[str, Any]) -> None:
    print_fields({name: value for name, value in status.items() if name != "parked"})
    if parked := status.get("parked"):
        say()
        print_table(parked, _PARKED, "")


_PARKED = (
    Column("session", "session_id"),
    Column("event", "seq", "right"),
    Column("waiting", "waiting", "right"),
    Column("since", lambda parked: age(parked.get("parked_at"))),
    Column("error", lambda parked: shorten(parked.get("error", ""))),
)


@verb(
    app,
    "redrive",
    acts_as=ADMIN,
    epilog=examples("flotilla outbox redrive s1", "flotilla outbox redrive s1 --tombstone"),
)
def redrive(
    call: Call,
    session: Annotated[str, typer.Argument(metavar="S", help="The parked session.", show_default=False)],
    tombstone: Annotated[
        bool, typer.Option("--tombstone", help="Publish an error event in the refused one's place.")
    ] = False,
) -> None:
    """Let a parked session go on, with the same event or with a tombstone in its place."""
    answer = call.gateway.post(f"/outbox/{session}/redrive", {"tombstone": True} if tombstone else {})
    call.show(answer, lambda: print_fields(answer))
