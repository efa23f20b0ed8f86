"""`flotilla runs`: start, list and inspect runs."""

import json
from typing import Annotated, Any
from uuid import uuid4

import typer

from flotilla_cli.printing import (
    TableColumn,
    age,
    print_fields,
    print_json_line,
    print_notice,
    print_table,
    say,
    shorten_to_line,
)
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Runs: start, list and inspect runs.")
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.", show_default=False)]
IfActive = Annotated[
    str, typer.Option("--if-active", help="While another run is active: reject, enqueue, interrupt or rollback.")
]


@verb(
    app,
    "start",
    epilog=examples_epilog(
        """flotilla runs start brief --input '{"topic": "harbours"}' --session s1""",
        "flotilla runs start brief --input @request.json --session s1 --metadata ticket=T-17",
    ),
)
def start_run(
    call: VerbCall,
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="See: flotilla workflows list.")],
    *,
    input_json: Annotated[
        str, typer.Option("--input", metavar="JSON", help="What it takes: a JSON object, or @FILE.")
    ] = "{}",
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="The session that records it. Default: one of its own.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="NAME=VALUE", help="To find it by; repeatable.")
    ] = None,
    if_active: IfActive = "reject",
    notify: Annotated[
        str | None, typer.Option("--notify", metavar="URL", help="Who is notified of its end; needs --secret-ref.")
    ] = None,
    secret_ref: Annotated[
        str | None, typer.Option("--secret-ref", metavar="NAME", help="The secret that signs what it gets.")
    ] = None,
) -> None:
    """Start a run of a workflow."""
    from flotilla_cli.arguments import parse_json_object, parse_key_texts

    body: dict[str, Any] = {
        "workflow": workflow,
        "input": parse_json_object(input_json),
        "metadata": parse_key_texts(metadata or ()),
    }
    body["if_active"] = if_active
    if notify is not None:
        body["notify"] = {"url": notify, "secret_ref": secret_ref}
    run = call.gateway.post(f"/sessions/{session or f'{workflow}-{uuid4()}'}/runs", body)
    call.show(run, lambda: _print_started(run))


def _print_started(run: dict[str, Any]) -> None:
    print_fields(run)
    print_notice(f"Its result: flotilla runs get {run['run_id']}")


@verb(
    app,
    "list",
    epilog=examples_epilog(
        "flotilla runs list --status error",
        "flotilla runs list --session s1 -o json",
        "flotilla runs list --workflow brief --metadata ticket=T-17",
    ),
)
def list_runs(
    call: VerbCall,
    *,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Only of this session.")] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only of this workflow; rag: questions.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="Only of this schedule.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only of this person.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="NAME=VALUE", help="Only with this metadata; repeatable.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status", help="Only these: queued, pending, running, interrupted, success, error, timeout, cancelled."
        ),
    ] = None,
    limit: Limit = 50,
) -> None:
    """List runs, newest first."""
    from flotilla_cli.arguments import parse_key_texts

    named = {f"metadata.{name}": value for name, value in parse_key_texts(metadata or ()).items()}
    only = {"session_id": session, "status": status, "workflow": workflow, "schedule_id": schedule, "user_id": user}
    page = call.gateway.list_all_pages("/runs", "runs", limit, **only, **named)
    call.print_listing(page, "runs", _RUNS, 'No run yet; start one with: flotilla ask "…"')


_RUNS = (
    TableColumn("run", "run_id"),
    TableColumn("session", "session_id"),
    TableColumn("status", "status"),
    TableColumn("workflow", "workflow"),
    TableColumn("question", lambda run: shorten_to_line(run.get("query") or "-")),
    TableColumn("created", lambda run: age(run.get("created_at"))),
)


@verb(
    app, "get", epilog=examples_epilog("flotilla runs get 0197…", "flotilla runs get 0197… -o json | jq .result.answer")
)
def get_run(call: VerbCall, run_id: RunId) -> None:
    """Show a run: its answer or error, and its steps with times and attempts."""
    run = call.gateway.get(f"/runs/{run_id}")
    if call.prints_json:
        call.show(run, lambda: None)
        return
    _print_run(run)
    _print_steps(call.gateway.get(f"/runs/{run_id}/steps"))


def _print_run(run: dict[str, Any]) -> None:
    from flotilla_cli.answers import failure_reason, print_answer_details

    names = ("run_id", "session_id", "workflow", "status", "created_at", "finished_at")
    print_fields({name.removesuffix("_id"): run.get(name) for name in names})
    if run.get("error"):
        say(failure_reason(run), style="red")
    if result := run.get("result"):
        say()
        say(result["answer"])
        print_answer_details(result, run.get("removed_documents") or ())
    if run.get("output") is not None:
        say()
        say(json.dumps(run["output"], indent=2, ensure_ascii=False))


def _print_steps(document: dict[str, Any]) -> None:
    say()
    print_table(document["steps"], _STEPS, "No step yet.")


def _milliseconds(step: Any) -> str:
    value = step.get("duration_ms")
    return "-" if value is None else f"{value:.0f} ms"


_STEPS = (
    TableColumn("step", lambda step: step.get("step") or step.get("name") or step.get("task_id")),
    TableColumn("kind", "kind"),
    TableColumn("agent", "agent"),
    TableColumn("status", "status"),
    TableColumn("attempt", lambda step: step.get("attempt") or step.get("attempts"), "right"),
    TableColumn("took", _milliseconds, "right"),
)


@verb(
    app, "events", epilog=examples_epilog("flotilla runs events 0197…", "flotilla runs events 0197… --follow -o json")
)
def run_events(
    call: VerbCall,
    run_id: RunId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Live, with tokens and steps, until the run is done.")
    ] = False,
) -> None:
    """Show the session events of a run; with --follow everything live.

    With --follow, -o json prints one object per line: event, id, data.
    """
    if follow:
        _follow(call, run_id)
        return
    from flotilla_cli.events import print_events

    session_id = call.gateway.get(f"/runs/{run_id}")["session_id"]
    events = [event for event in call.gateway.list_session_events(session_id) if event.get("runid") == run_id]
    call.show({"events": events}, lambda: print_events(events, "This run has no event yet."))


def _follow(call: VerbCall, run_id: str) -> None:
    from flotilla_cli.events import LivePrinter
    from flotilla_cli.live import RunFollower

    printer = LivePrinter()
    for event in RunFollower(call.gateway, run_id).follow_events():
        if call.prints_json:
            print_json_line({"event": event.kind, "id": event.event_id, "data": event.data})
        else:
            printer.take(event)


@verb(app, "notices", epilog=examples_epilog("flotilla runs notices 0197…"))
def show_notices(call: VerbCall, run_id: RunId) -> None:
    """Show what the run's receiver gets, and whether it got it."""
    answer = call.gateway.get(f"/runs/{run_id}/notices")
    call.print_listing(answer, "notices", _NOTICES, "Nobody is notified of this run.")


_NOTICES = (
    TableColumn("number", "number", "right"),
    TableColumn("notice", "kind"),
    TableColumn("to", "url"),
    TableColumn("status", "status"),
    TableColumn("attempts", "attempts", "right"),
    TableColumn("last error", lambda row: shorten_to_line(row.get("last_error") or "-")),
)


@verb(
    app,
    "feedback",
    epilog=examples_epilog("flotilla runs feedback 0197… --up", "flotilla runs feedback 0197…"),
)
def give_feedback(
    call: VerbCall,
    run_id: RunId,
    *,
    up: Annotated[bool | None, typer.Option("--up/--down", help="Whether the answer was good.")] = None,
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why.")] = "",
) -> None:
    """Say whether a run's answer was good; without --up or --down show what was said."""
    path = f"/runs/{run_id}/feedback"
    if up is None:
        call.print_listing(call.gateway.get(path), "feedback", _FEEDBACK, "Nothing was said of this run yet.")
        return
    answer = call.gateway.post(path, {"verdict": "up" if up else "down", "comment": comment})
    call.show(answer, lambda: print_notice("Noted.", style=None))


_FEEDBACK = (
    TableColumn("by", "given_by"),
    TableColumn("verdict", "verdict"),
    TableColumn("comment", "comment"),
    TableColumn("given", lambda row: age(row.get("given_at"))),
)


@verb(app, "cancel", epilog=examples_epilog("flotilla runs cancel 0197…"))
def cancel_run(call: VerbCall, run_id: RunId) -> None:
    """Cancel a run, and have its agents stop."""
    answer = call.gateway.post(f"/runs/{run_id}/cancel")
    is_over = answer["status"] == "cancelled"
    said = "was cancelled already" if is_over else "is being cancelled"
    call.show(answer, lambda: print_notice(f"Run {run_id} {said}.", style=None))
