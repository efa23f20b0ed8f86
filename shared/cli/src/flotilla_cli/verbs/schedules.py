"""`flotilla schedules`: runs that begin by the clock."""

from typing import Annotated, Any

import typer

from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, say, shorten_to_line
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Schedules: runs that begin by the clock.")
ScheduleId = Annotated[str, typer.Argument(metavar="ID", help="The schedule's id.", show_default=False)]


@verb(
    app,
    "create",
    epilog=examples_epilog(
        'flotilla schedules create digest --workflow brief --input \'{"topic": "harbours"}\' '
        '--cron "0 6 * * MON-FRI" --time-zone Europe/Berlin',
        'flotilla schedules create check --query "Which invoices are open?" --every 3600 --session invoices',
    ),
)
def create_schedule(
    call: VerbCall,
    schedule_id: Annotated[str, typer.Argument(metavar="ID", help="A name for it.", show_default=False)],
    *,
    workflow: Annotated[str | None, typer.Option("--workflow", help="What to start: flotilla workflows list.")] = None,
    input_json: Annotated[
        str, typer.Option("--input", metavar="JSON", help="What the workflow takes: a JSON object, or @FILE.")
    ] = "{}",
    query: Annotated[str | None, typer.Option("--query", help="Instead of a workflow: a question to ask.")] = None,
    cron: Annotated[
        list[str] | None,
        typer.Option("--cron", help="Minute, hour, day of month, month, day of week; repeatable."),
    ] = None,
    every: Annotated[float | None, typer.Option("--every", metavar="S", help="Instead: every so many seconds.")] = None,
    time_zone: Annotated[str | None, typer.Option("--time-zone", help="Of --cron. Default: UTC.")] = None,
    jitter: Annotated[
        float | None, typer.Option("--jitter", metavar="S", help="Put each start off by so many seconds at most.")
    ] = None,
    overlap: Annotated[
        str | None, typer.Option("--overlap", help="While the run before is under way: skip, buffer_one or allow.")
    ] = None,
    catch_up: Annotated[
        float | None, typer.Option("--catch-up", metavar="S", help="Make up for missed starts that are no older.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", metavar="TIME", help="No start after it: 2027-01-31T00:00:00Z.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="The session that records it. Default: one of each run's own.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="NAME=VALUE", help="Of its runs; repeatable.")
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Start nothing yet.")] = False,
) -> None:
    """Make a schedule; show its next five starts."""
    from flotilla_cli.arguments import parse_json_object, parse_key_texts

    body: dict[str, Any] = {"schedule_id": schedule_id, "paused": paused, "metadata": parse_key_texts(metadata or ())}
    body |= {"query": query} if query is not None else {"workflow": workflow, "input": parse_json_object(input_json)}
    optional = {
        "cron": cron,
        "interval_s": every,
        "time_zone": time_zone,
        "jitter_s": jitter,
        "overlap": overlap,
        "catch_up_s": catch_up,
        "end_at": end,
        "session_id": session,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    _show(call, call.gateway.post("/schedules", body))


def _show(call: VerbCall, schedule: dict[str, Any]) -> None:
    call.show(schedule, lambda: _print(schedule))


def _print(schedule: dict[str, Any]) -> None:
    unset: tuple[object, ...] = (None, "", [], {})
    print_fields({name: value for name, value in schedule.items() if name != "next_starts" and value not in unset})
    starts = schedule.get("next_starts")
    say()
    say("Next starts: " + (", ".join(starts) if starts else "none" if starts == [] else "not known yet"))


@verb(app, "list", epilog=examples_epilog("flotilla schedules list", "flotilla schedules list -o json"))
def list_schedules(call: VerbCall, limit: Limit = 50) -> None:
    """List schedules, newest first."""
    page = call.gateway.list_all_pages("/schedules", "schedules", limit)
    call.print_listing(page, "schedules", _SCHEDULES, "No schedule yet; make one with: flotilla schedules create ID")


def _fires(schedule: Any) -> str:
    return f"every {schedule['interval_s']:g} s" if schedule["interval_s"] is not None else "; ".join(schedule["cron"])


_SCHEDULES = (
    TableColumn("schedule", "schedule_id"),
    TableColumn("fires", _fires),
    TableColumn("time zone", "time_zone"),
    TableColumn("starts", lambda schedule: shorten_to_line(schedule["query"] or schedule["workflow"])),
    TableColumn("made by", "made_by"),
    TableColumn("state", lambda schedule: "paused" if schedule["paused"] else "active"),
    TableColumn("changed", lambda schedule: age(schedule["updated_at"])),
)


@verb(app, "show", epilog=examples_epilog("flotilla schedules show digest", "flotilla runs list --schedule digest"))
def show_schedule(call: VerbCall, schedule_id: ScheduleId) -> None:
    """Show a schedule and its next five starts."""
    _show(call, call.gateway.get(f"/schedules/{schedule_id}"))


@verb(app, "pause", epilog=examples_epilog('flotilla schedules pause digest --note "holidays"'))
def pause_schedule(
    call: VerbCall, schedule_id: ScheduleId, note: Annotated[str, typer.Option("--note", help="Why.")] = ""
) -> None:
    """Start nothing until it is resumed."""
    _show(call, call.gateway.patch(f"/schedules/{schedule_id}", {"paused": True, "note": note}))


@verb(app, "resume", epilog=examples_epilog("flotilla schedules resume digest"))
def resume_schedule(call: VerbCall, schedule_id: ScheduleId) -> None:
    """Go on with a paused schedule, in your name."""
    _show(call, call.gateway.patch(f"/schedules/{schedule_id}", {"paused": False}))


@verb(app, "trigger", epilog=examples_epilog("flotilla schedules trigger digest"))
def trigger_schedule(call: VerbCall, schedule_id: ScheduleId) -> None:
    """Start a run now, beside those of the clock."""
    answer = call.gateway.post(f"/schedules/{schedule_id}/trigger")
    call.show(answer, lambda: print_notice(f"It starts; see: flotilla runs list --schedule {schedule_id}", style=None))


@verb(app, "delete", epilog=examples_epilog("flotilla schedules delete digest"))
def delete_schedule(call: VerbCall, schedule_id: ScheduleId) -> None:
    """Delete a schedule; its runs stay."""
    answer = call.gateway.delete(f"/schedules/{schedule_id}")
    call.show(answer, lambda: print_notice(f"Schedule {schedule_id} is deleted.", style=None))
