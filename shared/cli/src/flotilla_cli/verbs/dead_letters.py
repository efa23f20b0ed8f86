"""`flotilla dead-letters`: entries that nobody could handle."""

from typing import Annotated, Any

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, say, shorten_to_line
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Dead letters: entries of the bus that nobody could handle, kept for a person.")
LetterId = Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id.", show_default=False)]


@verb(
    app,
    "list",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla dead-letters list", "flotilla dead-letters list --stream flotilla.tasks.research"),
)
def list_dead_letters(
    call: VerbCall,
    stream: Annotated[str | None, typer.Option("--stream", help="Only of this stream.")] = None,
    limit: Limit = 50,
) -> None:
    """List open dead letters, newest first."""
    page = call.gateway.list_all_pages("/dead-letters", "dead_letters", limit, stream=stream)
    call.print_listing(page, "dead_letters", _LETTERS, "No dead letter.")


_LETTERS = (
    TableColumn("id", "dead_letter_id"),
    TableColumn("stream", "stream"),
    TableColumn("task", "task_id"),
    TableColumn("reason", "reason"),
    TableColumn("error", lambda letter: shorten_to_line(letter.get("error", ""), 50)),
    TableColumn("attempts", "attempts", "right"),
    TableColumn("since", lambda letter: age(letter.get("created_at"))),
)


@verb(app, "show", acts_as=ADMIN, epilog=examples_epilog("flotilla dead-letters show 0197…"))
def show_dead_letter(call: VerbCall, letter_id: LetterId) -> None:
    """Show a dead letter: why it is one, and its body."""
    letter = call.gateway.get(f"/dead-letters/{letter_id}")
    call.show(letter, lambda: _print_letter(letter))


def _print_letter(letter: dict[str, Any]) -> None:
    print_fields({name: value for name, value in letter.items() if name not in ("body", "fields")})
    say()
    say(str(letter.get("body", "")))


@verb(
    app,
    "redrive",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla dead-letters redrive 0197…", "flotilla dead-letters redrive --stream flotilla.tasks.write"
    ),
)
def redrive(
    call: VerbCall,
    letter_id: Annotated[str | None, typer.Argument(metavar="ID", help="One dead letter.", show_default=False)] = None,
    stream: Annotated[str | None, typer.Option("--stream", help="All open ones of this stream.")] = None,
) -> None:
    """Put dead letters back on their stream, under the same task id, once the cause is fixed."""
    if (letter_id is None) == (stream is None):
        raise Misuse("name one dead letter, or a stream by --stream", "flotilla dead-letters list shows both")
    one = f"/dead-letters/{letter_id}/redrive"
    answer = call.gateway.post("/dead-letters/redrive", stream=stream) if stream else call.gateway.post(one)
    call.show(answer, lambda: print_fields(answer))


@verb(app, "discard", acts_as=ADMIN, epilog=examples_epilog("flotilla dead-letters discard 0197…"))
def discard(call: VerbCall, letter_id: LetterId) -> None:
    """Give a dead letter up; the row stays for the record."""
    answer = call.gateway.delete(f"/dead-letters/{letter_id}")
    result = answer or {"dead_letter_id": letter_id, "discarded": True}
    call.show(result, lambda: print_notice(f"Dead letter {letter_id} is discarded.", style=None))
