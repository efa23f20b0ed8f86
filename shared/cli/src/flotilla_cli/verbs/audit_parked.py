"""`flotilla audit parked`: events that wait because one before them is missing, in conflict or unknown."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, print_table, say, shorten_to_line
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import VerbCall, examples_epilog, new_verb_group, verb
from flotilla_cli.verbs.audit_requests import REQUESTS, Reason, Wait, wait_and_print_outcome

app = new_verb_group("Events that wait because one before them is missing, in conflict or unknown.")
ParkedId = Annotated[
    str,
    typer.Argument(metavar="S", help="The session's id; - for records that belong to no session.", show_default=False),
]


@verb(app, "list", acts_as=ADMIN, epilog=examples_epilog("flotilla audit parked list"))
def list_parked(call: VerbCall) -> None:
    """List the sessions that wait, and for what."""
    page = call.gateway.get("/audit/parked")
    call.print_listing(page, "parked", _PARKED, "Nothing is parked.")


_PARKED = (
    TableColumn("session", "session_id"),
    TableColumn("reason", "reason"),
    TableColumn("from event", "first_seq", "right"),
    TableColumn("waiting", "events", "right"),
    TableColumn("since", lambda parked: age(parked.get("parked_since"))),
    TableColumn("detail", lambda parked: shorten_to_line(parked.get("detail", ""))),
)


@verb(
    app,
    "explain",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla audit parked explain s1", "flotilla audit parked explain s1 -o json"),
)
def explain_parked(call: VerbCall, session: ParkedId) -> None:
    """Explain a parked session: what each side holds, who signed what, since when, and what each choice means."""
    found = call.gateway.get(f"/audit/parked/{session}")
    call.show(found, lambda: _print_explained(found))


def _print_explained(found: dict[str, Any]) -> None:
    lists = ("waiting", "projected", "signed", "forks", "choices")
    print_fields({name: value for name, value in found.items() if name not in lists})
    say("\nWhat waits:")
    print_table(found["waiting"], _SIDE, "Nothing.")
    say("\nWhat the projection has from there on:")
    print_table(found["projected"], _SIDE[:-1], "Nothing.")
    for signed in found["signed"]:
        say(f"Checkpoint {signed['number']} of partition {signed['partition']} signed it up to event {signed['seq']}.")
    if found["forks"]:
        say(f"Forks of it: {', '.join(found['forks'])}.")
    say("\nWhat you can do:")
    for choice in found["choices"]:
        say(f"  {choice['verb']}\n    {choice['effect']}.")


_SIDE = (
    TableColumn("event", "seq", "right"),
    TableColumn("type", "type"),
    TableColumn("by", "source"),
    TableColumn("happened", "time"),
    TableColumn("here since", "since"),
    TableColumn("offset", "offset", "right"),
    TableColumn("sha256", lambda one: one["sha256"][:12]),
    TableColumn("reason", lambda one: shorten_to_line(f"{one['reason']}: {one['detail']}")),
)


@verb(app, "retry", acts_as=ADMIN, epilog=examples_epilog("flotilla audit parked retry s1"))
def retry_parked(call: VerbCall, session: ParkedId, wait: Wait = True) -> None:
    """Place a session's parked events again, once what was missing has come."""
    wait_and_print_outcome(call, call.gateway.post(f"/audit/parked/{session}/retry"), wait=wait)


AllOf = Annotated[
    str | None,
    typer.Option(
        "--all",
        metavar="conflict|gap|unknown_type|ahead",
        help="Instead of one session: every session that is parked for this, at most 500 at once.",
        show_default=False,
    ),
]
Partition = Annotated[
    int | None,
    typer.Option("--partition", metavar="N", min=0, help="With --all: only in this partition.", show_default=False),
]
Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="T", help="With --all: of this tenant; for the operator's.", show_default=False),
]
OneOrAll = Annotated[
    str | None, typer.Argument(metavar="[S]", help="The session's id, or - (or use --all).", show_default=False)
]


@verb(
    app,
    "accept",
    acts_as=ADMIN,
    epilog=examples_epilog(
        'flotilla audit parked accept s1 --reason "PostgreSQL failed over; what it has now is right"',
        'flotilla audit parked accept --all conflict --partition 3 --reason "failover of 9 May"',
    ),
)
def accept_parked(
    call: VerbCall,
    reason: Reason,
    session: OneOrAll = None,
    *,
    all_: AllOf = None,
    partition: Partition = None,
    tenant: Tenant = None,
    wait: Wait = True,
) -> None:
    """Take the history that waits. The projected events that give way are kept, marked, with who decided and why.

    For a gap: an error event goes in the place of each event that is lost. See `flotilla audit parked explain S`.
    """
    _decide(call, "accept", session, _All(all_, partition, tenant), reason, wait=wait)


@verb(
    app,
    "reject",
    acts_as=ADMIN,
    epilog=examples_epilog(
        'flotilla audit parked reject s1 --reason "written by a cluster that was split off"',
        'flotilla audit parked reject --all gap --reason "lost with two disks"',
        'flotilla audit parked reject --all ahead --reason "PostgreSQL restored from Monday, Kafka is right"',
    ),
)
def reject_parked(
    call: VerbCall,
    reason: Reason,
    session: OneOrAll = None,
    *,
    all_: AllOf = None,
    partition: Partition = None,
    tenant: Tenant = None,
    wait: Wait = True,
) -> None:
    """Keep the projected history. All that waits of the session is set aside, marked; it goes on from its newest event.

    See `flotilla audit parked explain S`.
    """
    _decide(call, "reject", session, _All(all_, partition, tenant), reason, wait=wait)


@dataclass(frozen=True)
class _All:
    """Which sessions, where no single one was named."""

    parked_for: str | None
    partition: int | None
    tenant_id: str | None


def _decide(call: VerbCall, kind: str, session: str | None, every: _All, reason: str, *, wait: bool) -> None:
    if (session is None) == (every.parked_for is None):
        raise Misuse("no session given", "give one session, or --all with what they are parked for")
    if session is not None:
        wait_and_print_outcome(
            call, call.gateway.post(f"/audit/parked/{session}/{kind}", {"reason": reason}), wait=wait
        )
        return
    body = {name: value for name, value in vars(every).items() if value is not None}
    page = call.gateway.post(f"/audit/parked/{kind}", {**body, "reason": reason})
    call.print_listing(page, "requests", REQUESTS, "")
    print_notice("They are processed one after the other: flotilla audit requests, flotilla audit parked list")


@verb(
    app,
    "discard",
    acts_as=ADMIN,
    epilog=examples_epilog(
        'flotilla audit parked discard s1 --reason "restored twice"',
        'flotilla audit parked discard - --reason "a test wrote into the topic"',
    ),
)
def discard_parked(call: VerbCall, session: ParkedId, reason: Reason, wait: Wait = True) -> None:
    """Set only a session's conflicting events aside, so that what waits behind them goes on; they are kept, marked."""
    wait_and_print_outcome(call, call.gateway.post(f"/audit/parked/{session}/discard", {"reason": reason}), wait=wait)
