"""`flotilla runs`: start, list and inspect runs."""

import json
from typing import Annotated, Any
from uuid import uuid4

import typer

from flotilla_cli.printing import Column, age, notice, print_fields, print_json_line, print_table, say, shorten
from flotilla_cli.verb import Call, Limit, examples, new_app, verb

app = new_app("Runs: start, list and inspect runs.")
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.", show_default=False)]
IfActive = Annotated[
    str, typer.Option("--if-active", help="While another run is active: reject, enqueue, interrupt or rollback.")
]


@verb(
    app,
    "start",
    epilog=examples(
        """flotilla runs start brief --input '{"topic": "harbours"}' --session s1""",
        "flotilla runs start brief --input @request.json --session s1 --metadata ticket=T-17",
    ),
)
def start_run(
    call: Call,
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
    from flotilla_cli.arguments import read_object, read_texts

    body: dict[str, Any] = {
        "workflow": workflow,
        "input": read_object(input_json),
        "metadata": read_texts(metadata or ()),
    }
    body["if_active"] = if_active
    if notify is not None:
        body["notify"] = {"url": notify, "secret_ref": secret_ref}
    run = call.gateway.post(f"/sessions/{session or f'{workflow}-{uuid4()}'}/runs", body)
    call.show(run, lambda: _print_started(run))


def _print_started(run: dict[str, Any]) -> None:
    print_fields(run)
    notice(f"Its result: flotilla runs get {run['run_id']}")


@verb(
    app,
    "list",
    epilog=examples(
        "flotilla runs list --status error",
        "flotilla runs list --session s1 -o json",
        "flotilla runs list --workflow brief --metadata ticket=T-17",
    ),
)
def list_runs(
    call: Call,
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
    from flotilla_cli.arguments import read_texts

    named = {f"metadata.{name}": value for name, value in read_texts(metadata or ()).items()}
    only = {"session_id": session, "status": status, "workflow": workflow, "schedule_id": schedule, "user_id": user}
    page = call.gateway.pages("/runs", "runs", limit, **only, **named)
    call.listing(page, "runs", _RUNS, 'No run yet; start one with: flotilla ask "…"')


_RUNS = (
    Column("run", "run_id"),
    Column("session", "session_id"),
    Column("status", "status"),
    Column("workflow", "workflow"),
    Column("question", lambda run: shorten(run.get("query") or "-")),
    Column("created", lambda run: age(run.get("created_at"))),
)


@verb(app, "get", epilog=examples("flotilla runs get 0197…", "flotilla runs get 0197… -o json | jq .result.answer"))
def get_run(call: Call, run_id: RunId) -> None:
    """Show a run: its answer or error, and its steps with times and attempts."""
    run = call.gateway.get(f"/runs/{run_id}")
    if call.as_json:
        call.show(run, lambda: None)
        return
    _print_run(run)
    _print_steps(call.gateway.get(f"/runs/{run_id}/steps"))


def _print_run(run: dict[str, Any]) -> None:
    from flotilla_cli.answers import print_result, why_it_failed

    names = ("run_id", "session_id", "workflow", "status", "created_at", "finished_at")
    print_fields({name.removesuffix("_id"): run.get(name) for name in names})
    if run.get("error"):
        say(why_it_failed(run), style="red")
    if result := run.get("result"):
        say()
        say(result["answer"])
        print_result(result, run.get("removed_documents") or ())
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
    Column("step", lambda step: step.get("step") or step.get("name") or step.get("task_id")),
    Column("kind", "kind"),
    Column("agent", "agent"),
    Column("status", "status"),
    Column("attempt", lambda step: step.get("attempt") or step.get("attempts"), "right"),
    Column("took", _milliseconds, "right"),
)


@verb(app, "events", epilog=examples("flotilla runs events 0197…", "flotilla runs events 0197… --follow -o json"))
def run_events(
    call: Call,
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
    events = [event for event in call.gateway.events(session_id) if event.get("runid") == run_id]
    call.show({"events": events}, lambda: print_events(events, "This run has no event yet."))


def _follow(call: Call, run_id: str) -> None:
    from flotilla_cli.events import LivePrinter
    from flotilla_cli.live import RunFollower

    printer = LivePrinter()
    for event in RunFollower(call.gateway, run_id).events():
        if call.as_json:
            print_json_line({"event": event.kind, "id": event.event_id, "data": event.data})
        else:
            printer.take(event)


@verb(app, "notices", epilog=examples("flotilla runs notices 0197…"))
def show_notices(call: Call, run_id: RunId) -> None:
    """Show what the run's receiver gets, and whether it got it."""
    answer = call.gateway.get(f"/runs/{run_id}/notices")
    call.listing(answer, "notices", _NOTICES, "Nobody is notified of this run.")


_NOTICES = (
    Column("number", "number", "right"),
    Column("notice", "kind"),
    Column("to", "url"),
    Column("status", "status"),
    Column("attempts", "attempts", "right"),
    Column("last error", lambda row: shorten(row.get("last_error") or "-")),
)


@verb(
    app,
    "feedback",
    epilog=examples("flotilla runs feedback 0197… --up", "flotilla runs feedback 0197…"),
)
def give_feedback(
    call: Call,
    run_id: RunId,
    *,
    up: Annotated[bool | None, typer.Option("--up/--down", help="Whether the answer was good.")] = None,
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why.")] = "",
) -> None:
    """Say whether a run's answer was good; without --up or --down show what was said."""
    path = f"/runs/{run_id}/feedback"
    if up is None:
        call.listing(call.gateway.get(path), "feedback", _FEEDBACK, "Nothing was said of this run yet.")
        return
    answer = call.gateway.post(path, {"verdict": "up" if up else "down", "comment": comment})
    call.show(answer, lambda: notice("Noted.", style=None))


_FEEDBACK = (
    Column("by", "given_by"),
    Column("verdict", "verdict"),
    Column("comment", "comment"),
    Column("given", lambda row: age(row.get("given_at"))),
)


@verb(app, "cancel", epilog=examples("flotilla runs cancel 0197…"))
def cancel_run(call: Call, run_id: RunId) -> None:
    """Cancel a run, and have its agents stop."""
    answer = call.gateway.post(f"/runs/{run_id}/cancel")
    is_over = answer["status"] == "cancelled"
    said = "was cancelled already" if is_over else "is being cancelled"
    call.show(answer, lambda: notice(f"Run {run_id} {said}.", style=None))
