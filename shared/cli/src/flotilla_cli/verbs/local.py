"""`flotilla up | down | status | logs | demo`: the local stack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import OutputFormat, TableColumn, print_json, print_notice, print_table, say
from flotilla_cli.verb import Output, docstring_as_help, examples_epilog

if TYPE_CHECKING:
    from flotilla_devstack import UpOptions

LOCAL = "The local stack"
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        envvar="FLOTILLA_HOME",
        help="The stack's folder: data, logs, keys. Default: the user's data folder.",
        show_default=False,
    ),
]
Port = Annotated[
    list[str] | None,
    typer.Option("--port", metavar="NAME=PORT", help="A port to use, like gateway.http=8080; repeatable."),
]
Agents = Annotated[
    list[Path] | None,
    typer.Option("--agent", metavar="DIR", help="The folder of an agent of your own to run, too; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the root."""
    for name, function, lines in (
        (
            "up",
            up,
            ("flotilla up", "flotilla up --agent ~/translate-agent", "flotilla up --port gateway.http=9000"),
        ),
        ("down", down, ("flotilla down",)),
        ("status", status, ("flotilla status", "flotilla status -o json | jq -r .url")),
        ("logs", logs, ("flotilla logs gateway", "flotilla logs kafka --follow")),
        ("demo", demo, ("flotilla demo",)),
    ):
        app.command(name, help=docstring_as_help(function), rich_help_panel=LOCAL, epilog=examples_epilog(*lines))(
            function
        )


def up(state: State = None, port: Port = None, agent: Agents = None) -> None:
    """Start the local stack: Temporal, PostgreSQL, Redis, Kafka and the seven services, as processes on loopback.

    Agents that `flotilla new agent` wrote run with it: those in the repository's services/, in this folder, and those
    that --agent names. A stack that runs already gets those that it does not have. Set OPENAI_BASE_URL, OPENAI_API_KEY
    and FLOTILLA_LLM_MODEL before, and the writer uses that model; without them it uses a built-in extractive one.
    """
    from flotilla_cli.local.stack import print_addresses, print_next_commands, start_stack

    document = start_stack(stack_up_options(state, port, agent))
    print_addresses(document)
    print_next_commands()


def stack_up_options(state: Path | None, port: list[str] | None, agent: list[Path] | None = None) -> "UpOptions":
    """The stack's options from the command line's."""
    from flotilla_cli.local.stack import find_own_agents, state_folder
    from flotilla_devstack import UpOptions

    ports = tuple(_port(text) for text in port or [])
    return UpOptions(state=state_folder(state), ports=ports, agents=find_own_agents(agent or []))


def _port(text: str) -> tuple[str, int]:
    from flotilla_devstack import requestable_port_names

    name, _, number = text.partition("=")
    if not name or not number.isdigit() or not 0 < int(number) < 65_536:  # noqa: PLR2004 - TCP's range
        raise Misuse(f"--port {text} is not a port", "write it like gateway.http=8080")
    if name not in requestable_port_names():
        raise Misuse(
            f"--port {text}: the stack has no port {name}", f"there are: {', '.join(requestable_port_names())}"
        )
    return name, int(number)


def down(state: State = None) -> None:
    """Stop the local stack; its data stays for the next time."""
    from flotilla_cli.local.stack import stop_stack

    stopped = stop_stack(state)
    say(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")


def status(state: State = None, output: Output = OutputFormat.TABLE) -> None:
    """Show the processes of the local stack: state, pid, ports, log."""
    from flotilla_cli.local.stack import print_addresses, read_local_status, status_document

    document = read_local_status(state)
    if output is OutputFormat.JSON:
        print_json(status_document(document))
        return
    print_table(document["processes"], _PROCESSES, "The stack has no process.")
    if document["state"] == "ready":
        print_addresses(document)
    else:
        hint = "" if document["state"] == "starting" else "; start it with: flotilla up"
        print_notice(f"The stack is {document['state']}{hint}")


_PROCESSES = (
    TableColumn("name", "name"),
    TableColumn("kind", "kind"),
    TableColumn("state", "state"),
    TableColumn("pid", "pid", "right"),
    TableColumn("ports", lambda process: " ".join(f"{name}={port}" for name, port in process["ports"].items())),
    TableColumn("version", "version"),
    TableColumn("restarts", "restarts", "right"),
)


def logs(
    service: Annotated[
        str, typer.Argument(metavar="SERVICE", help="A service or server, supervisor, or install.", show_default=False)
    ],
    state: State = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="The last so many lines; 0 shows all.")
    ] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
) -> None:
    """Show the log of one process."""
    from flotilla_cli.local.logs import follow_log, print_log_tail
    from flotilla_cli.local.stack import find_process_log

    path = find_process_log(state, service)
    print_notice(str(path))
    end = print_log_tail(path, lines)
    if follow:
        follow_log(path, end)


def demo(state: State = None, port: Port = None) -> None:
    """Show everything once, on the local stack: load documents, ask, look at the history, travel in it, approve.

    Starts the stack if it does not run, and leaves it running.
    """
    from flotilla_cli.local.demo import run_demo

    run_demo(stack_up_options(state, port))
