"""What a server and a service have in common: one child process with a log, ports and a readiness probe."""

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from flotilla_devstack.errors import DeadlineError, NotRunningError, StartFailedError
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.listeners import ports_of_other_processes
from flotilla_devstack.process import ChildProcess, ProcessCommand, ProcessIdentity, spawn_process
from flotilla_devstack.waiting import wait_until

State = Literal["starting", "running", "restarting", "failed", "stopped"]
_LOG_TAIL_LINES = 15
_ROTATE_BYTES = 20 * 1024 * 1024
_KILL_WAIT_S = 10.0


class ManagedProcess(ABC):
    """One process of the stack, started, probed, harmed and stopped by its owner only.

    `start` returns at once; `wait_ready` waits. `kill` is kill -9 of the whole family, `pause` is SIGSTOP. All of them
    are for one thread at a time.
    """

    kind: ClassVar[Literal["server", "service"]]
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 15.0
    start_timeout_s: float = 60.0
    clean_exit_codes: ClassVar[frozenset[int]] = frozenset({0})
    """What it returns when it was stopped in order."""

    def __init__(self, name: str, *, ports: Mapping[str, int], log: Path, ledger: ProcessLedger) -> None:
        self.name = name
        self.ports = dict(ports)
        self.log = log
        self._ledger = ledger
        self.on_change: Callable[[], None] = _nobody
        """Called after each change of `state`, by the thread that made it."""
        self._state: State = "stopped"
        self.version = ""
        self.restarts = 0
        self._child: ChildProcess | None = None
        self._log_start = 0

    @abstractmethod
    def command(self) -> ProcessCommand:
        """What `start` runs."""

    @abstractmethod
    def probe(self) -> bool:
        """One look, without waiting longer than a second: does it serve?"""

    def is_ready(self) -> bool:
        """Whether it serves, and the answer came from this process: a stranger on its port answers as well."""
        return self.probe() and not self._ports_of_strangers()

    @property
    def state(self) -> State:
        """`running` once it was seen ready; what its process shows is `is_running()`."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self.on_change()

    def why_not_ready(self) -> str:
        """What the last failed probe said, for messages."""
        return ""

    def start(self) -> None:
        """Start the process; does nothing while it runs. Records it in the ledger at once."""
        if self.is_running():
            return
        self._rotate_log()
        self._child = spawn_process(self.command(), self.log)
        self._ledger.record_start(self.name, self._child.identity, self.stop_signal)
        self.state = "starting"

    def is_running(self) -> bool:
        """Whether the process exists."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """The pid of the running process."""
        return self._child.pid if self._child and self._child.poll() is None else None

    @property
    def identity(self) -> ProcessIdentity | None:
        """Pid, start time and boot of the running process."""
        return self._child.identity if self._child and self._child.poll() is None else None

    @property
    def returncode(self) -> int | None:
        """How the last process ended (negative: by that signal); None while it runs or before the first start."""
        return self._child.poll() if self._child else None

    def wait_ready(self, timeout_s: float | None = None, cancelled: threading.Event | None = None) -> None:
        """Wait until the probe succeeds.

        Raises:
            StartFailedError: the process ended, or did not get ready in time; holds the end of its log.
            InterruptedStartError: `cancelled` was set.
        """
        limit = timeout_s or self.start_timeout_s
        try:
            wait_until(self._ready_or_ended, timeout_s=limit, what=f"{self.name} ready", cancelled=cancelled)
        except DeadlineError as late:
            raise self._failed(f"{late} {self._stranger() or self.why_not_ready()}".strip()) from None
        if not self.is_running():
            ended = f"{self.name} ended with code {self.returncode} before it was ready"
            raise self._failed(f"{ended} {self._stranger()}".strip())
        self.state = "running"

    def wait_exit(self, timeout_s: float) -> int:
        """Wait for the end of the process and return its code.

        Raises:
            DeadlineError: it still runs.
        """
        code = self._started_child().wait(timeout_s) if self._child else None
        if code is None:
            raise DeadlineError(f"end of {self.name}: not within {timeout_s:g} s")
        return code

    def stop(self, timeout_s: float | None = None) -> int | None:
        """Ask the process to end, wait, and kill its family when the grace is over; returns the exit code.

        Harmless when it does not run. A paused process is woken first.
        """
        if self._child is None or not self.is_running():
            return self.returncode
        family = self._child.identity.process_tree()
        self.send_stop_signal()
        code = self._child.wait(self.stop_timeout_s if timeout_s is None else timeout_s)
        if code is None:
            self.kill()
        _end_stragglers(family)
        self.state = "stopped"
        return self.returncode

    def send_stop_signal(self) -> None:
        """Send the stop signal without waiting, so that several can end side by side."""
        if self._child is not None and self.is_running():
            self._child.send(self.stop_signal)
            self._child.signal_process_tree(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM, as Kubernetes does, and return at once; `wait_exit` gives the code."""
        self._started_child().send(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9 of the process and all its descendants; returns when they are gone."""
        child = self._started_child()
        family = child.identity.process_tree()
        for member in family:
            member.send(signal.SIGKILL)
        child.wait(_KILL_WAIT_S)
        _wait_gone(family)
        self.state = "stopped"

    def pause(self) -> None:
        """SIGSTOP of the process and all its descendants: alive, connected, and mute."""
        self._started_child().signal_process_tree(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT of what was paused."""
        self._started_child().signal_process_tree(signal.SIGCONT)

    def restart(self, timeout_s: float | None = None) -> None:
        """Stop it in order (if it runs), start it on the same ports and data, and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready(timeout_s)

    def log_text(self, *, whole: bool = False) -> str:
        """What the log holds since the last start, or all of it."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(0 if whole else self._log_start)
            return file.read().decode("utf-8", errors="replace")

    def __enter__(self) -> Self:
        """Start it and wait until it is ready; ended again should that fail."""
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _ready_or_ended(self) -> bool:
        return not self.is_running() or self.is_ready()

    def _ports_of_strangers(self) -> list[int]:
        return ports_of_other_processes(self.ports.values(), self._child.identity.process_tree() if self._child else [])

    def _stranger(self) -> str:
        taken = ", ".join(map(str, self._ports_of_strangers()))
        return f"(another process listens on its port {taken})" if taken else ""

    def _failed(self, what: str) -> StartFailedError:
        tail = "\n".join(self.log_text().splitlines()[-_LOG_TAIL_LINES:])
        return StartFailedError(f"{what}; its log {self.log} ends with:\n{tail}")

    def _started_child(self) -> ChildProcess:
        if self._child is None:
            raise NotRunningError(f"{self.name} was never started")
        return self._child

    def _rotate_log(self) -> None:
        size = self.log.stat().st_size if self.log.exists() else 0
        if size > _ROTATE_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
            size = 0
        self._log_start = size


def _nobody() -> None:
    """The default listener."""


def _wait_gone(family: list[ProcessIdentity]) -> None:
    wait_until(lambda: not any(m.is_alive() for m in family), timeout_s=_KILL_WAIT_S, what="end of killed processes")


def _end_stragglers(family: list[ProcessIdentity]) -> None:
    """Descendants that outlived their parent (a service's helpers, backends of a killed postmaster)."""
    for member in family:
        member.send(signal.SIGKILL)
    _wait_gone(family)
