"""`flotilla ask`: one question, answered live."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla_cli.errors import INTERRUPTED, CliError, Misuse
from flotilla_cli.printing import print_json, print_notice
from flotilla_cli.verb import VerbCall, examples_epilog, verb
from flotilla_cli.verbs.runs import IfActive

if TYPE_CHECKING:
    from flotilla_cli.gateway import GatewayClient

_EXAMPLES = examples_epilog(
    'flotilla ask "Who may approve a refund?"',
    'flotilla ask "And above 500 euros?" --session s1',
    'flotilla ask "No, above 700?" --session s1 --if-active rollback',
    'flotilla ask "…" --no-wait -o json',
)


def register(app: typer.Typer) -> None:
    """Add the verb to the root."""
    verb(app, "ask", epilog=_EXAMPLES)(ask)


def ask(
    call: VerbCall,
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="The session; created if it is new. Default: a new one.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answer, or only start the run.")] = True,
    if_active: IfActive = "reject",
) -> None:
    """Ask a question: its answer streams in live, then come sources and confidence.

    Earlier turns of the same session are part of the question. Ctrl-C stops the watching, not the run.
    """
    session_id = session or _new_session_id()
    run = call.gateway.post(f"/sessions/{session_id}/runs", {"query": _read(question), "if_active": if_active})
    if wait:
        _watch(call, run)
    else:
        call.show(run, lambda: _print_started(run))


def _new_session_id() -> str:
    import secrets

    return f"ask-{secrets.token_hex(4)}"


def _read(question: str) -> str:
    text = typer.get_text_stream("stdin").read() if question == "-" else question
    if not text.strip():
        raise Misuse("standard input is empty: there is no question", "flotilla ask - < FILE")
    return text


def _print_started(run: dict[str, Any]) -> None:
    from flotilla_cli.printing import print_fields

    follow = f"flotilla runs events {run['run_id']} --follow"
    print_fields({"run": run["run_id"], "session": run["session_id"], "status": run["status"], "follow it": follow})


def _watch(call: VerbCall, run: dict[str, Any]) -> None:
    run_id = run["run_id"]
    try:
        finished = follow_run(call.gateway, run_id, quiet=call.prints_json)
    except KeyboardInterrupt:
        print_notice(
            f"\nThe run goes on without you. Follow it: flotilla runs events {run_id} --follow\n"
            f"Its result: flotilla runs get {run_id}   Stop it: flotilla runs cancel {run_id}"
        )
        raise typer.Exit(INTERRUPTED) from None
    if call.prints_json:
        print_json(finished)
    if finished["status"] != "success":
        raise _failure(finished)
    print_notice(f"session {finished['session_id']} · run {run_id}")


def follow_run(gateway: "GatewayClient", run_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Show a run's tokens as they come and its result once it is done, unless `quiet`; returns the finished run."""
    from flotilla_cli.answers import AnswerPrinter, print_answer_details
    from flotilla_cli.live import RunFollower

    printer = AnswerPrinter()
    for event in RunFollower(gateway, run_id).follow_events():
        if not quiet:
            printer.take(event)
    finished: dict[str, Any] = gateway.get(f"/runs/{run_id}")
    result = finished.get("result")
    if result and not quiet:
        printer.finish_answer(result["answer"])
        print_answer_details(result)
    return finished


def _failure(run: dict[str, Any]) -> CliError:
    from flotilla_cli.answers import failure_reason

    reason = failure_reason(run)
    return CliError(f"run {run['run_id']} ended with status {run['status']}: {reason}", _AFTER_FAILURE.format(**run))


_AFTER_FAILURE = "its steps and attempts: flotilla runs get {run_id}"
