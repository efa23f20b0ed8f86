"""`status.json`: what a stack tells the world about itself."""

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Literal, NotRequired, TypedDict

from flotilla_devstack.errors import NotRunningError
from flotilla_devstack.folders import StateDir, write_atomically
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.unit import ManagedProcess, State

StackState = Literal["starting", "ready", "stopping", "stopped", "failed"]


class ProcessIdentityEntry(TypedDict):
    """What distinguishes a process from a later one with its pid."""

    pid: int
    started: int
    boot: str


class ProcessEntry(TypedDict):
    """One server or service; `ports` maps a short name such as `http` to a loopback port."""

    name: str
    kind: Literal["server", "service"]
    pid: int | None
    ports: dict[str, int]
    state: State
    log: str
    version: str
    restarts: int
    identity: NotRequired[ProcessIdentityEntry | None]


class StackStatus(TypedDict):
    """The whole file. `url` is empty when no gateway runs."""

    url: str
    keys_file: str
    processes: list[ProcessEntry]
    state: StackState
    temporal_ui_url: str
    supervisor: ProcessIdentityEntry | None


def process_entry(unit: ManagedProcess) -> ProcessEntry:
    """The present state of one process."""
    return ProcessEntry(
        name=unit.name,
        kind=unit.kind,
        pid=unit.pid,
        ports=unit.ports,
        state=unit.state,
        log=str(unit.log),
        version=unit.version,
        restarts=unit.restarts,
        identity=identity_entry(unit.identity),
    )


def identity_entry(identity: ProcessIdentity | None) -> ProcessIdentityEntry | None:
    """An identity as JSON."""
    return ProcessIdentityEntry(pid=identity.pid, started=identity.started, boot=identity.boot) if identity else None


def read_identity(entry: Mapping[str, object] | None) -> ProcessIdentity | None:
    """The reverse of `identity_entry`."""
    if not entry:
        return None
    return ProcessIdentity(int(str(entry["pid"])), int(str(entry["started"])), str(entry["boot"]))


class StatusFile:
    """Writes the file, atomically and only when something changed; for any thread."""

    def __init__(self, state_dir: StateDir, owner: ProcessIdentity | None) -> None:
        self._state_dir = state_dir
        self._owner = owner
        self._written = ""
        self._writing = threading.Lock()

    def post(self, state: StackState, units: Iterable[ManagedProcess]) -> None:
        """Write the present state of all processes."""
        with self._writing:
            self._post(state, units)

    def _post(self, state: StackState, units: Iterable[ManagedProcess]) -> None:
        entries = [process_entry(unit) for unit in units]
        ports = {entry["name"]: entry["ports"] for entry in entries}
        status = StackStatus(
            url=_url(ports.get("gateway"), "http"),
            keys_file=str(self._state_dir.keys_file),
            processes=entries,
            state=state,
            temporal_ui_url=_url(ports.get("temporal"), "ui"),
            supervisor=identity_entry(self._owner),
        )
        text = json.dumps(status, indent=2) + "\n"
        if text != self._written:
            write_atomically(self._state_dir.status_file, text)
            self._written = text


def _url(ports: Mapping[str, int] | None, name: str) -> str:
    return f"http://127.0.0.1:{ports[name]}" if ports and name in ports else ""


def read_stack_status(state_dir: StateDir) -> StackStatus:
    """The file, corrected by what the processes show: a dead process is `stopped` and has no pid.

    Raises:
        NotRunningError: this folder never held a stack.
    """
    try:
        status: StackStatus = json.loads(state_dir.status_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotRunningError(f"{state_dir.root} holds no stack; start one with: flotilla up") from None
    for entry in status["processes"]:
        _correct(entry)
    owner = read_identity(status["supervisor"])
    if (owner is None or not owner.is_alive()) and status["state"] != "failed":
        status["state"] = "stopped"
    return status


def _correct(entry: ProcessEntry) -> None:
    identity = read_identity(entry.get("identity"))
    if identity is not None and identity.is_alive():
        return
    entry["pid"], entry["identity"] = None, None
    if entry["state"] not in ("restarting", "failed"):
        entry["state"] = "stopped"


def find_process_entry(status: StackStatus, name: str) -> ProcessEntry:
    """One process by name.

    Raises:
        NotRunningError: the stack has no such process; names those it has.
    """
    for entry in status["processes"]:
        if entry["name"] == name:
            return entry
    names = ", ".join(entry["name"] for entry in status["processes"]) or "none"
    raise NotRunningError(f"the stack has no process called {name}; it has: {names}")
