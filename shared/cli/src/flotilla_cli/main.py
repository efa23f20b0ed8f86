"""The command's root: every group of verbs, and the way errors leave."""

import io
import sys
from typing import Annotated

import typer

from flotilla_cli.bytes_in import check_arguments_are_utf8
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.printing import print_notice
from flotilla_cli.target import ConnectionOptions
from flotilla_cli.verb import ActsAs, OnBehalfOf, Token, Url, examples_epilog
from flotilla_cli.verbs import (
    actions,
    agents,
    approvals,
    ask,
    audit,
    backup,
    dead_letters,
    doctor,
    documents,
    eval,
    keys,
    local,
    new,
    orders,
    outbox,
    privacy,
    questions,
    runs,
    schedules,
    sessions,
    signers,
    spend,
    tasks,
    tenants,
    tools,
    workflows,
)

_HELP = "\n\n".join(
    (
        "A fleet of agent services: durable runs, governed actions, a history that can be trusted.",
        "Start with [cyan]flotilla demo[/], or with [cyan]flotilla up[/] and the examples below.",
        "Every verb explains itself with [cyan]--help[/]; whatever shows something takes [cyan]-o json[/].",
        "Exit codes: 0 done · 1 failed · 2 misuse · 3 not found · 130 interrupted.",
    )
)
_EXAMPLES = examples_epilog(
    "flotilla up",
    "flotilla documents add handbook/",
    'flotilla ask "Who may approve a refund?" --session s1',
    "flotilla sessions events s1",
    "flotilla down",
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"flotilla {version('flotilla-fleet-cli')}")
        raise typer.Exit


@app.callback(help=_HELP, epilog=_EXAMPLES)
def _root(
    context: typer.Context,
    *,
    url: Url = None,
    token: Token = None,
    as_: ActsAs = None,
    on_behalf_of: OnBehalfOf = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.obj = ConnectionOptions(url, token, as_, on_behalf_of)


local.register(app)
doctor.register(app)
ask.register(app)
new.register(app)
spend.register(app)
for _name, _group in (
    ("documents", documents.app),
    ("eval", eval.app),
    ("runs", runs.app),
    ("workflows", workflows.app),
    ("schedules", schedules.app),
    ("sessions", sessions.app),
    ("actions", actions.app),
    ("approvals", approvals.app),
    ("questions", questions.app),
    ("orders", orders.app),
    ("tasks", tasks.app),
    ("tools", tools.app),
    ("agents", agents.app),
    ("dead-letters", dead_letters.app),
    ("outbox", outbox.app),
    ("audit", audit.app),
    ("backup", backup.app),
    ("keys", keys.app),
    ("signers", signers.app),
    ("privacy", privacy.app),
    ("tenants", tenants.app),
):
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command and exit with its code. Ctrl-C (130) and a closed pipe (1) are Typer's to report."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files hold any bytes, terminals show not every character: neither may end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    except CliError as error:
        _report(error)
        sys.exit(error.exit_code)


def _run() -> None:
    check_arguments_are_utf8(sys.argv[1:])
    try:
        app(prog_name="flotilla")
    except UnicodeError as error:  # without the value, which may be a token
        raise Misuse(
            "a text that was given is not UTF-8", "check FLOTILLA_ variables, standard input and options"
        ) from error


def _report(error: CliError) -> None:
    print_notice(f"flotilla: {error}", style="bold red")
    if error.hint:
        print_notice(f"→ {error.hint}", style=None)
