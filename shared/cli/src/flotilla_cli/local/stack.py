"""The local stack's functions with the command line's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flotilla_cli.errors import CliError, NotFound
from flotilla_cli.local.progress import StackProgressView
from flotilla_cli.printing import print_fields, print_notice, say
from flotilla_devstack import DevstackError, StackStatus, UpOptions, default_state_dir, down, log_path, stack_status, up
from flotilla_devstack.errors import MissingPrerequisiteError, NotRunningError, PortTakenError, StartFailedError

_PROCESS_FIELDS = ("name", "kind", "pid", "ports", "state", "log")


@contextmanager
def devstack_errors() -> Iterator[None]:
    """Turn the stack's errors into the command's."""
    try:
        yield
    except MissingPrerequisiteError as error:
        raise CliError(f"{error.name}: {error}", error.hint) from error
    except NotRunningError as error:
        raise NotFound(str(error)) from error
    except PortTakenError as error:
        raise CliError(str(error), "flotilla up --port gateway.http=8081 chooses another one") from error
    except StartFailedError as error:
        raise CliError(
            str(error), "flotilla doctor checks what the stack needs; flotilla logs NAME shows a log"
        ) from error
    except DevstackError as error:
        raise CliError(str(error)) from error


def start_stack(options: UpOptions) -> StackStatus:
    """Start the stack if it does not run, showing how far it is."""
    with devstack_errors(), StackProgressView() as view:
        return up(options, view.take)


def find_own_agents(named: list[Path]) -> tuple[Path, ...]:
    """The folders of agents of one's own: those `named`, and those in this folder and in the repository."""
    from flotilla_cli.verbs.new import find_repository
    from flotilla_devstack.own_agents import find_agent_folders, read_agent_folders

    root = find_repository()
    folders = tuple(
        dict.fromkeys((*(folder.resolve() for folder in named), *find_agent_folders(Path(), *_services(root))))
    )
    with devstack_errors():
        read_agent_folders(folders)
    return folders


def _services(root: Path | None) -> list[Path]:
    return [root / "services"] if root else []


def stop_stack(state: Path | None) -> list[str]:
    """Stop the stack, showing how far it is; the names of what was stopped."""
    with devstack_errors(), StackProgressView() as view:
        return down(state, view.take)


def read_local_status(state: Path | None) -> StackStatus:
    """The stack's status; NotFound when there never was one."""
    with devstack_errors():
        return stack_status(state)


def find_process_log(state: Path | None, name: str) -> Path:
    """The log of one process."""
    with devstack_errors():
        return log_path(state, name)


def status_document(document: StackStatus) -> dict[str, Any]:
    """The status in the shape that `flotilla status -o json` promises."""
    processes = [{name: process.get(name) for name in _PROCESS_FIELDS} for process in document["processes"]]
    return {"url": document["url"], "keys_file": document["keys_file"], "processes": processes}


def print_addresses(document: StackStatus) -> None:
    """Where everything of the stack is."""
    say()
    print_fields(
        {
            "API": document["url"],
            "API reference": f"{document['url']}/docs" if document["url"] else "",
            "Temporal UI": document["temporal_ui_url"],
            "keys": f"{document['keys_file']}  (admin, alice, bob)",
            "logs": logs_folder(document),
        }
    )


def logs_folder(document: StackStatus) -> str:
    """The folder that holds every log."""
    folders = {str(Path(process["log"]).parent) for process in document["processes"]}
    return ", ".join(sorted(folders))


def state_folder(state: Path | None) -> Path:
    """The stack's folder."""
    return state or default_state_dir()


def print_next_commands() -> None:
    """The next commands, for somebody new."""
    print_notice('\nNext: flotilla documents add PATH   flotilla ask "…"   flotilla status   flotilla down')
