"""Helper programs that run to their end: initdb, mvn, psql, Kafka's StorageTool."""

import os
import shutil
import signal
import threading
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path

from flotilla_devstack.errors import DeadlineError, DevstackError, MissingPrerequisiteError, ToolFailedError
from flotilla_devstack.process import ChildProcess, ProcessCommand, ProcessUser, spawn_process
from flotilla_devstack.waiting import wait_until

_TAIL_LINES = 20
# Settings of the caller's own databases would be obeyed by the servers and their tools.
_FOREIGN_PREFIXES = ("PG", "TEMPORAL_", "KAFKA_", "REDIS")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment less what would reconfigure a server behind our back."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_PREFIXES)}
    return {**kept, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def run_program(
    argv: tuple[str, ...],
    *,
    log: Path,
    cwd: Path,
    user: ProcessUser | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    cancelled: threading.Event | None = None,
) -> str:
    """Run a program to its end with its output appended to `log`, and return that output.

    Raises:
        ToolFailedError: it ended with an error, or not within `timeout_s` (then it is killed).
        InterruptedStartError: `cancelled` was set (then it is killed).
    """
    start = log.stat().st_size if log.exists() else 0
    child = spawn_process(ProcessCommand(argv, env or clean_environment(), cwd, user), log)
    try:
        wait_until(lambda: child.poll() is not None, timeout_s=timeout_s, what=argv[0], cancelled=cancelled)
    except DeadlineError as late:
        _kill(child)
        raise ToolFailedError(f"{late}; its output is in {log}") from None
    except DevstackError:
        _kill(child)
        raise
    output = _read_from(log, start)
    if child.poll() != 0:
        tail = "\n".join(output.splitlines()[-_TAIL_LINES:])
        raise ToolFailedError(f"{Path(argv[0]).name} failed with code {child.poll()}; {log} ends with:\n{tail}")
    return output


def _kill(child: ChildProcess) -> None:
    child.signal_process_tree(signal.SIGKILL)
    child.wait(5.0)


def _read_from(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode("utf-8", errors="replace")


def find_program(name: str, *, what: str, hint: str) -> str:
    """The absolute path of a program on PATH.

    Raises:
        MissingPrerequisiteError: with the command that installs it.
    """
    found = shutil.which(name)
    if found is None:
        raise MissingPrerequisiteError(what, f"the program {name} is not on PATH", hint)
    return found


def find_distribution_file(distribution: str, file_name: str) -> Path | None:
    """A file that an installed wheel carries, by its base name; None when either is missing."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())).resolve() for file in files if file.name == file_name)
    return next((path for path in found if path.is_file()), None)


def find_package_folder(package: str) -> Path | None:
    """The folder of an installed import package, without importing it."""
    spec = util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
