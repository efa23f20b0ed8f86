"""`flotilla new`: the folder of a new agent or workflow."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.printing import print_notice, say
from flotilla_cli.verb import docstring_as_help, examples_epilog, new_verb_group


def register(app: typer.Typer) -> None:
    """Add the group to the root."""
    group = new_verb_group("New parts of a fleet.")
    group.command("agent", help=docstring_as_help(new_agent), epilog=examples_epilog("flotilla new agent translate"))(
        new_agent
    )
    group.command(
        "workflow", help=docstring_as_help(new_workflow), epilog=examples_epilog("flotilla new workflow brief")
    )(new_workflow)
    group.callback()(_group)
    app.add_typer(group, name="new")


def _group() -> None:
    """New parts of a fleet."""


def new_agent(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent's name: lower-case, like translate.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="The folder that gets the new one.")] = Path(
        "services"
    ),
    wheels: Annotated[
        Path | None,
        typer.Option(
            "--wheels", metavar="DIR", help="Outside Flotilla's repository: the folder that `make wheels` made."
        ),
    ] = None,
) -> None:
    """Write a service folder for a new agent that lints, tests and runs."""
    from flotilla.agent.template import write_agent

    folder = into / f"{name}-agent"
    _written(folder, lambda: write_agent(name, folder, wheels=_wheels_for(folder, wheels)))


def new_workflow(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The workflow's name: lower-case, like brief.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="The folder that gets the new one.")] = Path(),
    wheels: Annotated[
        Path | None,
        typer.Option("--wheels", metavar="DIR", help="The folder that `make wheels` made in Flotilla's repository."),
    ] = None,
) -> None:
    """Write a package with a new workflow, a test in skipped time and a replay test."""
    from flotilla.agent.template.workflow import write_workflow

    folder = into / f"{name}-workflow"
    _written(folder, lambda: write_workflow(name, folder, wheels=_wheels_folder(wheels)))


def _written(folder: Path, write: Callable[[], list[Path]]) -> None:
    from flotilla.contracts.errors import Conflict, Invalid

    try:
        written = write()
    except Conflict as error:
        raise CliError(str(error)) from error
    except Invalid as error:
        raise Misuse(str(error)) from error
    for path in written:
        say(str(path))
    print_notice(f"Next: read {folder / 'README.md'}")


def _wheels_for(folder: Path, named: Path | None) -> Path | None:
    """Where an agent in `folder` gets Flotilla from; None in Flotilla's repository, whose workspace has it."""
    root = find_repository()
    if named is None and root and folder.resolve().is_relative_to(root / "services"):
        return None
    return _wheels_folder(named)


def _wheels_folder(named: Path | None) -> Path:
    wheels = named or (find_repository() or Path()) / "dist/wheels"
    if not any(wheels.glob("flotilla_fleet-*.whl")):
        raise CliError(
            f"{wheels} holds no wheel of Flotilla: run `make wheels` in Flotilla's repository, or name the folder that"
            " it made with --wheels"
        )
    return wheels


def find_repository() -> Path | None:
    """The repository that this command was installed from in place, if it was."""
    root = Path(__file__).resolve().parents[5]
    return root if (root / "shared/flotilla/pyproject.toml").is_file() else None
