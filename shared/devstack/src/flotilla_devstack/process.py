"""Child processes that do not outlive their owner, and processes known by identity rather than by name.

Three nets, so that no process is left behind: the kernel signals every child when its parent dies
(PR_SET_PDEATHSIG, prctl(2)), lives in a session of its own (a terminal's Ctrl-C reaches only the owner, which then
stops its children in order), and is written to a ledger by pid and start time (`ledger.py`).
"""

import contextlib
import ctypes
import os
import queue
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flotilla_devstack.errors import DeadlineError
from flotilla_devstack.waiting import wait_until

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ProcessUser:
    """Whom a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class ProcessCommand:
    """What to run: `death_signal` is what the kernel sends to it when its owner dies."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    user: ProcessUser | None = None
    death_signal: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, told apart from a later one with the same pid by its start time (proc(5), field 22) and boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this pid now; None when there is none (a zombie still counts)."""
        fields = _stat(pid)
        return cls(pid, int(fields[19]), _boot_id()) if fields else None

    def is_alive(self) -> bool:
        """Whether exactly this process exists and is more than a zombie."""
        fields = _stat(self.pid)
        return bool(fields) and int(fields[19]) == self.started and fields[0] not in "ZX" and _boot_id() == self.boot

    def send(self, signum: signal.Signals) -> bool:
        """Signal exactly this process: a pidfd is opened before its identity is checked, so pid reuse does no harm."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(fd, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def process_tree(self) -> list["ProcessIdentity"]:
        """This process and its living descendants, parents first."""
        children = _children_by_parent()
        found: list[ProcessIdentity] = []
        pending = [self.pid] if self.is_alive() else []
        while pending:
            member = ProcessIdentity.of(pending.pop(0))
            if member:
                found.append(member)
                pending += children.get(member.pid, [])
        return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third (state) on; empty when there is no such process."""
    try:
        # Path.read_text takes twice as long, and each start and stop looks at every process of the machine.
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(b")")[2].decode("ascii").split()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _children_by_parent() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        fields = _stat(int(name)) if name.isdigit() else []
        if fields:
            children.setdefault(int(fields[1]), []).append(int(name))
    return children


class ChildProcess:
    """One running child; made by `spawn_process`."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self.pid = popen.pid
        identity = ProcessIdentity.of(popen.pid)
        assert identity is not None, "an unreaped child always has an entry in /proc"  # noqa: S101
        self.identity = identity

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        return self._popen.poll()

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None when it still runs after `timeout_s`."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def send(self, signum: signal.Signals) -> None:
        """Signal the child itself; does nothing once it has ended."""
        self._popen.send_signal(signum)

    def signal_process_tree(self, signum: signal.Signals) -> None:
        """Signal the child and its descendants (PostgreSQL's backends have sessions of their own)."""
        for member in self.identity.process_tree():
            member.send(signum)


def spawn_process(command: ProcessCommand, log: Path) -> ChildProcess:
    """Start a child with its output appended to `log` and nothing on its standard input.

    It dies with this process: the kernel sends it `command.death_signal`. The kernel takes the *thread* that forked for
    the parent, hence the one thread that forks them all and never ends.
    """
    return _spawner().call(lambda: _spawn(command, log))


def _spawn(command: ProcessCommand, log: Path) -> ChildProcess:
    user = command.user
    with log.open("ab") as output:
        popen = subprocess.Popen(  # noqa: S603 - the callers' argv are fixed programs, no shell
            command.argv,
            env=dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
            preexec_fn=_die_with_parent(command.death_signal),  # noqa: PLW1509 - one prctl, no locks
        )
    return ChildProcess(popen)


def _die_with_parent(signum: signal.Signals) -> Callable[[], None]:
    """For the child, after its change of user (which would undo it) and before exec."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask_kernel


class _Spawner:
    """A daemon thread that forks on behalf of all others and ends only with the interpreter."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], ChildProcess], Future[ChildProcess]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="devstack-spawner", daemon=True).start()

    def call(self, job: Callable[[], ChildProcess]) -> ChildProcess:
        future: Future[ChildProcess] = Future()
        self._jobs.put((job, future))
        return future.result()

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                future.set_exception(error)


_the_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()


def _spawner() -> _Spawner:
    global _the_spawner  # noqa: PLW0603 - a fork has to make its own
    with _spawner_lock:
        if _the_spawner is None or _the_spawner.owner != os.getpid():
            _the_spawner = _Spawner()
        return _the_spawner


def call_after_exit(pid: int, action: Callable[[], None]) -> None:
    """Call `action` from a thread once that process has ended; at once if there is none."""
    threading.Thread(target=_wait_and_call, args=(pid, action), name=f"after-{pid}", daemon=True).start()


def _wait_and_call(pid: int, action: Callable[[], None]) -> None:
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            select.select([fd], [], [])
        finally:
            os.close(fd)
    action()


def end(processes: list[ProcessIdentity], first: signal.Signals, timeout_s: float) -> None:
    """Ask processes that may not be our children to end, and kill what is left of their families after `timeout_s`."""
    families = [member for process in processes for member in process.process_tree()]
    for process in processes:
        process.send(first)
        process.send(signal.SIGCONT)
    if not _all_gone(families, timeout_s):
        for member in families:
            member.send(signal.SIGKILL)
        _all_gone(families, timeout_s)


def _all_gone(members: list[ProcessIdentity], timeout_s: float) -> bool:
    with contextlib.suppress(DeadlineError):
        wait_until(lambda: not any(m.is_alive() for m in members), timeout_s=timeout_s, what="end of processes")
        return True
    return False
