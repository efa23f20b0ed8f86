"""Requests to the audit consumer: what a verb that makes one shows, and waits for."""

import time
from typing import Annotated, Any

import typer

from flotilla_cli.errors import CliError
from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, print_table, shorten_to_line
from flotilla_cli.verb import VerbCall

REQUEST_WITHIN_S = 600.0
_POLL_S = 0.5
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done, or only ask for it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept with what is done.")]

REQUESTS = (
    TableColumn("request", "request_id"),
    TableColumn("kind", "kind"),
    TableColumn("session", "session_id"),
    TableColumn("by", "requested_by"),
    TableColumn(
        "confirmed by", lambda one: one["confirmed_by"] or ("nobody yet" if one["needs_confirmation"] else None)
    ),
    TableColumn("asked", lambda one: age(one.get("created_at"))),
    TableColumn("done", lambda one: (one.get("outcome") or {}).get("ok")),
    TableColumn("reason", lambda one: shorten_to_line(one.get("reason") or "")),
)


def wait_and_print_outcome(call: VerbCall, request: dict[str, Any], *, wait: bool) -> None:
    """Show the outcome of a request to the audit consumer, or that it was made."""
    waits_for_person = request["needs_confirmation"] and request["confirmed_at"] is None
    if wait and not waits_for_person:
        request = _finished(call, request)
    call.show(request, lambda: _print_request(request))
    if waits_for_person:
        print_notice(f"A second person has to agree within 24 hours: flotilla audit confirm {request['request_id']}")
    _check_outcome(request)


def wait_for_outcome(call: VerbCall, request: dict[str, Any]) -> dict[str, Any]:
    """Return what came of a request to the audit consumer.

    Raises:
        CliError: it failed, or takes too long.
    """
    finished = _finished(call, request)
    _check_outcome(finished)
    outcome: dict[str, Any] = finished["outcome"]
    return outcome


def _finished(call: VerbCall, request: dict[str, Any]) -> dict[str, Any]:
    request_id = request["request_id"]
    deadline, seen = time.monotonic() + REQUEST_WITHIN_S, None
    while request["finished_at"] is None:
        if time.monotonic() > deadline:
            raise CliError(f"request {request_id} is not finished after {REQUEST_WITHIN_S:g} s; it goes on", _LATE)
        time.sleep(_POLL_S)
        request = call.gateway.get(f"/audit/requests/{request_id}")
        if request["progress"] != seen:
            seen, deadline = request["progress"], time.monotonic() + REQUEST_WITHIN_S
            print_notice(_progress(seen))
    return request


def _check_outcome(request: dict[str, Any]) -> None:
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
    TableColumn("session", lambda loss: f"{loss['tenant_id']}/{loss['session_id'] or '-'}"),
    TableColumn("projection holds", "holds", "right"),
    TableColumn("in Kafka", "rebuilt", "right"),
    TableColumn("lost", "lost", "right"),
    TableColumn("changed", "replaced", "right"),
    TableColumn("from event", "first_seq", "right"),
)


_LATE = "is the audit consumer running? flotilla status, flotilla logs audit-consumer"
