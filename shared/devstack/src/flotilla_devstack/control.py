"""What the command line calls: start the supervisor, stop it, look at it. All of it can be repeated at any time."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flotilla_devstack.errors import DeadlineError, DevstackError, NotRunningError, StartFailedError, StateLockedError
from flotilla_devstack.folders import StateDir, StateLock
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.own_agents import read_agent_folders, request_agents
from flotilla_devstack.ports import check_ports_free
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.progress import JournalReader, Listener, ProgressJournal, ignore_progress
from flotilla_devstack.status import StackStatus, read_stack_status
from flotilla_devstack.supervisor import EXIT_LOCKED, SupervisorOptions
from flotilla_devstack.waiting import wait_until

UpOptions = SupervisorOptions
_UP_TIMEOUT_S = 900.0  # the first time downloads
_DOWN_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 10.0
_POLL_S = 0.05


class _OwnerVanishedError(DevstackError):
    """The supervisor that somebody else had started ended without a word: it was killed."""


def up(
    options: UpOptions | None = None, on_progress: Listener = ignore_progress, *, timeout_s: float = _UP_TIMEOUT_S
) -> StackStatus:
    """Make the stack run, and return its status once everything is ready.

    One that runs already gets the agents that it does not have. Follows a start that is under way, and waits for an
    end that is under way. When it is interrupted (Ctrl-C), what it started is stopped again.

    Raises:
        PortTakenError: a port that was asked for by number is in use.
        StartFailedError: something did not come up; everything was stopped again; the message says why.
        DeadlineError: not ready within `timeout_s`; the start goes on.
    """
    options = options or UpOptions()
    state_dir = StateDir(options.state).create_folders()
    with ProgressJournal(state_dir.journal_file).follow_events() as follower:
        if _settle(state_dir) == "ready":
            return _with_agents(options.agents, state_dir, follower, on_progress, timeout_s)
        if StateLock(state_dir.lock_file).held():
            with contextlib.suppress(_OwnerVanishedError):
                return _follow(state_dir, follower, None, on_progress, timeout_s)
        follower.skip()
        # Before four servers are started in vain; what a killed supervisor left behind is ended by the next one.
        if not ProcessLedger(state_dir.ledger_file).living_processes():
            check_ports_free(dict(options.ports))
        process = _launch(options, state_dir)
        with _stopped_on_interrupt(state_dir, on_progress):
            return _follow(state_dir, follower, process, on_progress, timeout_s)


def down(
    state: Path | None = None, on_progress: Listener = ignore_progress, *, timeout_s: float = _DOWN_TIMEOUT_S
) -> list[str]:
    """Stop services, then servers, and end what a killed supervisor left behind; returns the names of the stopped.

    Harmless when nothing runs. A supervisor that does not end within `timeout_s` is killed, and with it its processes.
    """
    state_dir = StateDir(state or UpOptions().state)
    if not state_dir.root.exists():
        return []
    lock = StateLock(state_dir.lock_file)
    with ProgressJournal(state_dir.journal_file).follow_events() as follower:
        follower.skip()
        stopped = _stop_owner(lock, follower, on_progress, timeout_s) if lock.held() else []
    wait_until(lambda: _acquired(lock), timeout_s=timeout_s, what=f"the lock of {state_dir.root}")
    try:
        return [*stopped, *ProcessLedger(state_dir.ledger_file).kill_survivors()]
    finally:
        lock.release()


def stack_status(state: Path | None = None) -> StackStatus:
    """The stack's status as its processes show it now; `state` of the whole is `stopped` when nobody runs it.

    Raises:
        NotRunningError: this folder never held a stack.
    """
    return read_stack_status(StateDir(state or UpOptions().state))


def log_path(state: Path | None, name: str) -> Path:
    """The log of a server or service; also of `supervisor` and `install`.

    Raises:
        NotRunningError: there is no such log; names those there are.
    """
    state_dir = StateDir(state or UpOptions().state)
    path = state_dir.log_file(name)
    if not path.exists():
        names = (
            ", ".join(sorted(log.stem for log in state_dir.logs.glob("*.log")))
            or "none yet; start the stack with: flotilla up"
        )
        raise NotRunningError(f"no log of {name} in {state_dir.logs}; there are: {names}")
    return path


def _with_agents(
    folders: Sequence[Path], state_dir: StateDir, follower: JournalReader, on_progress: Listener, timeout_s: float
) -> StackStatus:
    """Have the running stack add the agents that it does not have."""
    if not _missing(folders, state_dir):
        return read_stack_status(state_dir)
    follower.skip()
    request_agents(folders, state_dir)
    wait_until(
        lambda: not state_dir.wanted_agents_file.exists(),
        timeout_s=_ANSWER_TIMEOUT_S,
        what=f"the supervisor of {state_dir.root} to add agents (one of a former version adds none: stop it first)",
    )
    reached = _follow(state_dir, follower, None, on_progress, timeout_s)
    if missing := _missing(folders, state_dir):
        raise StartFailedError(f"{', '.join(missing)} did not come up; the rest of the stack runs")
    return reached


def _missing(folders: Sequence[Path], state_dir: StateDir) -> list[str]:
    running = {process["name"] for process in read_stack_status(state_dir)["processes"]}
    return [name for name in read_agent_folders(folders) if name not in running]


def _settle(state_dir: StateDir) -> str:
    """The state of the whole, after an end that is under way has come to pass."""
    if not StateLock(state_dir.lock_file).held():
        return "stopped"
    with contextlib.suppress(NotRunningError):
        state = read_stack_status(state_dir)["state"]
        if state == "stopping":
            free = StateLock(state_dir.lock_file)
            wait_until(lambda: not free.held(), timeout_s=_DOWN_TIMEOUT_S, what="the end of the last stack")
        return state
    return "starting"


def _launch(options: UpOptions, state_dir: StateDir) -> "subprocess.Popen[bytes]":
    """The supervisor, in a session of its own so that it outlives us and our terminal.

    A thread waits for its end, in case that we outlive it: nobody else would take its exit code.
    """
    log = state_dir.log_file("supervisor")
    argv = [sys.executable, "-m", "flotilla_devstack.supervisor", *options.to_arguments()]
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=state_dir.logs,
            start_new_session=True,
        )
    threading.Thread(target=process.wait, name="devstack-reaper", daemon=True).start()
    return process


def _follow(
    state_dir: StateDir,
    follower: JournalReader,
    process: "subprocess.Popen[bytes] | None",
    on_progress: Listener,
    timeout_s: float,
) -> StackStatus:
    """Pass on the supervisor's events until the stack is ready or its supervisor is gone."""
    deadline = time.monotonic() + timeout_s
    reason = ""
    while not _ready(state_dir):
        gone = _gone(state_dir, process)
        for event in follower.read():
            on_progress(event)
            if event.kind == "stack" and event.phase == "failed":
                reason = event.detail
        if gone and process is None and not reason:
            raise _OwnerVanishedError(state_dir.root)
        if gone:
            raise StartFailedError(reason or _last_words(state_dir))
        if time.monotonic() > deadline:
            raise DeadlineError(f"the stack in {state_dir.root} is not ready after {timeout_s:g} s")
        time.sleep(_POLL_S)
    for event in follower.read():
        on_progress(event)
    return read_stack_status(state_dir)


def _gone(state_dir: StateDir, process: "subprocess.Popen[bytes] | None") -> bool:
    """Whether nobody is left who could bring the stack up; another supervisor that was faster than ours counts."""
    if process is not None and process.poll() in (None, EXIT_LOCKED):
        return process.poll() is not None and not StateLock(state_dir.lock_file).held()
    return process is not None or not StateLock(state_dir.lock_file).held()


def _ready(state_dir: StateDir) -> bool:
    try:
        return read_stack_status(state_dir)["state"] == "ready" and StateLock(state_dir.lock_file).held()
    except NotRunningError:
        return False


def _last_words(state_dir: StateDir) -> str:
    log = state_dir.log_file("supervisor")
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:] if log.exists() else []
    return f"the supervisor ended before the stack was ready; {log} ends with:\n" + "\n".join(tail)


@contextlib.contextmanager
def _stopped_on_interrupt(state_dir: StateDir, on_progress: Listener) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        down(state_dir.root, on_progress)
        raise


def _stop_owner(lock: StateLock, follower: JournalReader, on_progress: Listener, timeout_s: float) -> list[str]:
    """SIGTERM to the holder of the lock; its events until it is gone."""
    pid = lock.holder_pid()
    owner = ProcessIdentity.of(pid) if pid else None
    if owner is None or not lock.held():
        return []
    owner.send(signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    stopped: list[str] = []
    while owner.is_alive():
        stopped += _pass_on_stops(follower, on_progress)
        if time.monotonic() > deadline:
            owner.send(signal.SIGKILL)
        time.sleep(_POLL_S)
    return stopped + _pass_on_stops(follower, on_progress)


def _pass_on_stops(follower: JournalReader, on_progress: Listener) -> list[str]:
    events = follower.read()
    for event in events:
        on_progress(event)
    return [event.name for event in events if event.phase == "stopped" and event.kind != "stack"]


def _acquired(lock: StateLock) -> bool:
    try:
        lock.acquire()
    except StateLockedError:
        return False
    return True
