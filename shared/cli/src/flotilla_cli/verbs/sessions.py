"""`flotilla sessions`: the history of each conversation, and travel in it."""

from typing import Annotated, Any

import typer

from flotilla_cli.arguments import check_timestamp
from flotilla_cli.errors import Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, say
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Sessions: the history of each conversation, and travel in it.")
SessionId = Annotated[str, typer.Argument(metavar="S", help="The session's id.", show_default=False)]


@verb(app, "list", epilog=examples_epilog("flotilla sessions list", "flotilla sessions list --limit 500 -o json"))
def list_sessions(call: VerbCall, limit: Limit = 50) -> None:
    """List sessions, newest first."""
    page = call.gateway.list_all_pages("/sessions", "sessions", limit)
    call.print_listing(page, "sessions", _SESSIONS, 'No session yet; start one with: flotilla ask "…"')


def _user(session: Any) -> str:
    """Who opened it: the person and, where one acted for them, the service."""
    service = session.get("acted_by")
    return f"{session.get('user_id')}, through {service}" if service else str(session.get("user_id"))


def _parent(session: Any) -> str:
    parent = session.get("parent_session_id")
    return f"{parent} at {session.get('forked_at_seq')}" if parent else "-"


_SESSIONS = (
    TableColumn("session", "session_id"),
    TableColumn("user", _user),
    TableColumn("events", "head_seq", "right"),
    TableColumn("forked from", _parent),
    TableColumn("created", lambda session: age(session.get("created_at"))),
)


@verb(app, "show", epilog=examples_epilog("flotilla sessions show s1"))
def show_session(call: VerbCall, session: SessionId) -> None:
    """Show a session: whose it is, its last event, where it was forked from."""
    document = call.gateway.get(f"/sessions/{session}")
    call.show(document, lambda: print_fields(document))


@verb(
    app, "events", epilog=examples_epilog("flotilla sessions events s1", "flotilla sessions events s1 --from 5 --to 9")
)
def session_events(
    call: VerbCall,
    session: SessionId,
    from_seq: Annotated[int, typer.Option("--from", metavar="SEQ", min=1, help="From this event on.")] = 1,
    to_seq: Annotated[int | None, typer.Option("--to", metavar="SEQ", min=1, help="Up to and with this event.")] = None,
) -> None:
    """Show a session's events: the whole history, in order, without a gap."""
    from flotilla_cli.events import print_events

    events = list(call.gateway.list_session_events(session, from_seq, to_seq))
    call.show({"events": events}, lambda: print_events(events, "No event in this range."))


@verb(
    app,
    "state",
    epilog=examples_epilog(
        "flotilla sessions state s1",
        "flotilla sessions state s1 --at-seq 4",
        "flotilla sessions state s1 --at-time 2026-05-01T12:00:00Z",
    ),
)
def session_state(
    call: VerbCall,
    session: SessionId,
    at_seq: Annotated[
        int | None, typer.Option("--at-seq", metavar="SEQ", min=0, help="As it was right after this event.")
    ] = None,
    at_time: Annotated[
        str | None, typer.Option("--at-time", metavar="TIME", help="As it was at this time (RFC 3339).")
    ] = None,
) -> None:
    """Show what was known at a point of the history: messages, tool calls, variables, status."""
    if at_seq is not None and at_time is not None:
        raise Misuse("--at-seq and --at-time exclude each other", "give one of them")
    if at_time is not None:
        check_timestamp(at_time)
    state = call.gateway.get(f"/sessions/{session}/state", at_seq=at_seq, at_time=at_time)
    call.show(state, lambda: print_state(state))


def print_state(state: dict[str, Any]) -> None:
    """A folded state for people."""
    print_fields({name: value for name, value in state.items() if not isinstance(value, list)})
    for message in state.get("messages") or []:
        say(f"{message.get('role')}: {message.get('content')}")
    if calls := state.get("tool_calls"):
        say(f"tool calls: {len(calls)} ({', '.join(sorted({str(one.get('tool')) for one in calls}))})")


@verb(app, "diff", epilog=examples_epilog("flotilla sessions diff s1 --from 4 --to 9"))
def session_diff(
    call: VerbCall,
    session: SessionId,
    from_seq: Annotated[int, typer.Option("--from", metavar="SEQ", min=0, help="The earlier event.")],
    to_seq: Annotated[int, typer.Option("--to", metavar="SEQ", min=0, help="The later event.")],
) -> None:
    """Show what changed between two points of the history: + is there now, - is not any more, ~ is another."""
    from flotilla_cli.events import print_state_diff

    changes = call.gateway.get(f"/sessions/{session}/diff", from_seq=from_seq, to_seq=to_seq)
    call.show(changes, lambda: print_state_diff(changes))


@verb(
    app,
    "fork",
    epilog=examples_epilog("flotilla sessions fork s1 --at-seq 4", "flotilla sessions fork s1 --at-seq 4 --to s2"),
)
def fork_session(
    call: VerbCall,
    session: SessionId,
    at_seq: Annotated[int, typer.Option("--at-seq", metavar="SEQ", min=0, help="The last event that both share.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="S", help="The new session's id; default: a new one.")
    ] = None,
) -> None:
    """Open a new session that shares the history up to a point; the original stays untouched."""
    body = {"at_seq": at_seq, **({"session_id": to} if to else {})}
    forked = call.gateway.post(f"/sessions/{session}/fork", body)
    call.show(forked, lambda: print_fields(forked))


@verb(app, "rollback", epilog=examples_epilog("flotilla sessions rollback s1 --to-seq 4"))
def rollback_session(
    call: VerbCall,
    session: SessionId,
    to_seq: Annotated[int, typer.Option("--to-seq", metavar="SEQ", min=0, help="The event whose state counts again.")],
) -> None:
    """Go back to an earlier state by a new event; nothing is erased."""
    answer = call.gateway.post(f"/sessions/{session}/rollback", {"to_seq": to_seq})
    call.show(answer, lambda: print_fields(answer))


@verb(app, "access", epilog=examples_epilog("flotilla sessions access s1"))
def session_access(call: VerbCall, session: SessionId) -> None:
    """Show who owns a session, who may read and write it, and whether you may change that."""
    access = call.gateway.get(f"/sessions/{session}/access")
    call.show(access, lambda: print_access(access))


@verb(
    app,
    "share",
    epilog=examples_epilog(
        "flotilla sessions share s1 --reader bob --writer group:support",
        "flotilla sessions share s1 --remove bob",
        "flotilla sessions share s1 --visibility tenant",
    ),
)
def share_session(
    call: VerbCall,
    session: SessionId,
    *,
    reader: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who may read it: a person, or group:NAME; repeatable.")
    ] = None,
    writer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who may read and write it, named the same way.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who may no longer do either, named the same way.")
    ] = None,
    visibility: Annotated[
        str | None, typer.Option(metavar="private|tenant", help="tenant: everybody in the tenant reads and writes.")
    ] = None,
) -> None:
    """Share a session of yours, or stop sharing it. Every change is an event of the session."""
    parties = {"add_readers": reader, "add_writers": writer, "remove": remove}
    change: dict[str, Any] = {name: [_party(one) for one in given] for name, given in parties.items() if given}
    if visibility is not None:
        change["visibility"] = visibility
    if not change:
        raise Misuse("nothing to change", "name a --reader, a --writer, whom to --remove, or a --visibility")
    _change_access(call, session, change)


@verb(app, "transfer", epilog=examples_epilog("flotilla sessions transfer s1 --to bob"))
def transfer_session(
    call: VerbCall,
    session: SessionId,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="The new owner; you stay a writer.")],
) -> None:
    """Make another person the owner of a session of yours."""
    _change_access(call, session, {"owner": {"subject": to}})


def _change_access(call: VerbCall, session: str, change: dict[str, Any]) -> None:
    access = call.gateway.patch(f"/sessions/{session}/access", change)
    call.show(access, lambda: print_access(access))


def _party(text: str) -> dict[str, str]:
    """`bob`, `user:bob` or `group:support` as the API names it."""
    kind, colon, name = text.partition(":")
    return {"kind": kind, "name": name} if colon and kind in ("user", "group") else {"kind": "user", "name": text}


def print_access(access: dict[str, Any]) -> None:
    """A session's access list for people."""
    owner = access.get("owner")
    lists = {name: ", ".join(map(_name_of, access.get(name) or [])) for name in ("readers", "writers")}
    print_fields({**access, "owner": _name_of(owner) if owner else "none", **lists})


def _name_of(party: dict[str, Any]) -> str:
    return f"{party.get('kind')}:{party.get('name')} ({party.get('issuer')})"
