"""`flotilla doctor`: what is wrong, and what to do about it."""

from typing import TYPE_CHECKING, Annotated

import typer

from flotilla_cli.errors import CliError
from flotilla_cli.local.model import probe_model_features
from flotilla_cli.printing import OutputFormat, print_json, print_notice, say
from flotilla_cli.target import ADMIN, ConnectionOptions
from flotilla_cli.verb import (
    ActsAs,
    OnBehalfOf,
    Output,
    Token,
    Url,
    docstring_as_help,
    examples_epilog,
    root_connection_options,
)
from flotilla_cli.verbs.local import LOCAL, State

if TYPE_CHECKING:
    from pathlib import Path

    from flotilla_cli.local.checks import CheckResult


def register(app: typer.Typer) -> None:
    """Add the verb to the root."""
    epilog = examples_epilog(
        "flotilla doctor",
        "flotilla doctor --llm",
        "flotilla doctor --url https://flotilla.example --token …",
        "flotilla doctor --on-behalf-of alice@example.com --token …",
    )
    app.command("doctor", help=docstring_as_help(doctor), rich_help_panel=LOCAL, epilog=epilog)(doctor)


def doctor(
    context: typer.Context,
    *,
    state: State = None,
    output: Output = OutputFormat.TABLE,
    url: Url = None,
    token: Token = None,
    as_: ActsAs = None,
    on_behalf_of: OnBehalfOf = None,
    llm: Annotated[
        bool, typer.Option("--llm", help="Ask the model endpoint once per feature, and print the settings that fit.")
    ] = False,
) -> None:
    """Check this machine, every connection and every setting; say what to do about each failure.

    Servers are those of FLOTILLA_POSTGRES_DSN, FLOTILLA_REDIS_URL, FLOTILLA_KAFKA_BOOTSTRAP_SERVERS and
    FLOTILLA_TEMPORAL_ADDRESS where these are set, else the local stack's. With `--llm`, only the endpoint of
    OPENAI_BASE_URL and OPENAI_API_KEY is examined, with about a dozen small requests, which it may charge for. With
    `--on-behalf-of`, only whether the key may act for that person, and what it reaches then.
    """
    if llm:
        probe_model_features(output)
        return
    connection = ConnectionOptions(url, token, as_, on_behalf_of).over(root_connection_options(context))
    findings = _findings(state, connection)
    if output is OutputFormat.JSON:
        print_json({"checks": [finding.as_json_object() for finding in findings]})
    else:
        _print(findings)
    if failed := [finding.name for finding in findings if not finding.ok]:
        raise CliError(f"failed checks: {', '.join(failed)}")


def _findings(state: "Path | None", connection: ConnectionOptions) -> "list[CheckResult]":
    if connection.on_behalf_of is None:
        from flotilla_cli.local.checks import run_all_checks

        return run_all_checks(state, connection, ADMIN)
    from flotilla_cli.acting import check_on_behalf_of

    return check_on_behalf_of(connection, ADMIN)


def _print(findings: "list[CheckResult]") -> None:
    for finding in findings:
        mark, style = ("✓", "green") if finding.ok else ("✗", "red")
        say(f"{mark} {finding.name:12} {finding.detail}", style=style)
        if not finding.ok:
            print_notice(f"  → {finding.hint}", style=None)
