"""Requests to the audit consumer: what a verb that makes one shows, and waits for."""

import time
from typing import Annotated, Any

import typer

from flotilla_cli.errors import CliError
from flotilla_cli.printing import Column, age, notice, print_fields, print_table, shorten
from flotilla_cli.verb import Call

REQUEST_WITHIN_S = 600.0
_POLL_S = 0.5
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done, or only ask for it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept with what is done.")]

REQUESTS = (
    Column("request", "request_id"),
    Column("kind", "kind"),
    Column("session", "session_id"),
    Column("by", "requested_by"),
    Column("confirmed by", lambda one: one["confirmed_by"] or ("nobody yet" if one["needs_confirmation"] else None)),
    Column("asked", lambda one: age(one.get("created_at"))),
    Column("done", lambda one: (one.get("outcome") or {}).get("ok")),
    Column("reason", lambda one: shorten(one.get("reason") or "")),
)


def finish(call: Call, request: dict[str, Any], *, wait: bool) -> None:
    """Show the outcome of a request to the audit consumer, or that it was made."""
    request_id = request["request_id"]
    waits_for_person = request["needs_confirmation"] and request["confirmed_at"] is None
    deadline, seen = time.monotonic() + REQUEST_WITHIN_S, None
    while wait and not waits_for_person and request["finished_at"] is None:
        if time.monotonic() > deadline:
            raise CliError(f"request {request_id} is not finished after {REQUEST_WITHIN_S:g} s; it goes on", _LATE)
        time.sleep(_POLL_S)
        request = call.gateway.get(f"/audit/requests/{request_id}")
        if request["progress"] != seen:
            seen, deadline = request["progress"], time.monotonic() + REQUEST_WITHIN_S
            notice(_progress(seen))
    call.show(request, lambda: _print_request(request))
    if waits_for_person:
        notice(f"A second person has to agree within 24 hours: flotilla audit confirm {request_id}")
    outcome = request.get("outcome") or {}
    if outcome.get("ok") is False:
        raise CliError(f"{request['kind']} failed: {outcome.get('error')}")


def _progress(progress: dict[str, Any]) -> str:
    read, of = progress.get("read", 0), progress.get("of")
    share = f" of {of} ({read / of:.0%})" if of else ""
    return f"{progress['phase']}: {read}{share} records"


def _print_request(request: dict[str, Any]) -> None:
    outcome = dict(request.get("outcome") or {})
    losses = outcome.pop("losses", [])
    print_fields({**request, "outcome": outcome or None})
    if losses:
        print_table(losses, _LOSSES, "")


_LOSSES = (
    Column("session", lambda loss: f"{loss['tenant_id']}/{loss['session_id'] or '-'}"),
    Column("projection holds", "holds", "right"),
    Column("in Kafka", "rebuilt", "right"),
    Column("lost", "lost", "right"),
    Column("changed", "replaced", "right"),
    Column("from event", "first_seq", "right"),
)


_LATE = "is the audit consumer running? flotilla status, flotilla logs audit-consumer"
