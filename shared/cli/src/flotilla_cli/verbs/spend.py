"""`flotilla spend`: what model calls cost."""

from enum import StrEnum
from typing import Annotated

import typer

from flotilla_cli.printing import TableColumn
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import VerbCall, examples_epilog, verb


class By(StrEnum):
    """What to sum up by."""

    DAY = "day"
    MODEL = "model"
    AGENT = "agent"
    PERSON = "person"
    SERVICE = "service"
    RUN = "run"


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    epilog = examples_epilog(
        "flotilla spend", "flotilla spend --by agent --since 2026-01-01T00:00:00Z", "flotilla spend --run r1"
    )
    verb(app, "spend", acts_as=ADMIN, epilog=epilog)(spend)


def spend(
    call: VerbCall,
    by: Annotated[By, typer.Option("--by", help="What to sum up by.")] = By.DAY,
    since: Annotated[
        str | None, typer.Option("--since", help="From this moment on, with its offset; by default the last 30 days.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only of this run.")] = None,
) -> None:
    """Show what model calls cost, by day, model, agent, person or run (needs FLOTILLA_LLM_PRICES at the agents)."""
    found = call.gateway.get("/spend", by=by.value, since=since, run_id=run)
    call.print_listing(found, "spend", (TableColumn(by.value, "name"), *_SUMS), "Nothing was spent.")


_SUMS = (
    TableColumn("calls", "calls", "right"),
    TableColumn("input", "input_tokens", "right"),
    TableColumn("cached", "cached_input_tokens", "right"),
    TableColumn("output", "output_tokens", "right"),
    TableColumn("amount", "amount", "right"),
    TableColumn("currency", "currency"),
)
