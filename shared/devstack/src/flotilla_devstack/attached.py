"""A process of a stack that somebody else runs."""

import signal
from collections.abc import Callable
from pathlib import Path

from flotilla_devstack.errors import NotOwnedError, NotRunningError
from flotilla_devstack.folders import StateDir
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.status import ProcessEntry, find_process_entry, read_identity, read_stack_status
from flotilla_devstack.unit import State
from flotilla_devstack.waiting import wait_until


class AttachedProcess:
    """Reads `status.json` again at each question, so a restart by its supervisor is seen.

    It can be harmed only if the stack was attached with `control=True`, and is never stopped: its supervisor starts it
    again.
    """

    def __init__(self, state_dir: StateDir, name: str, *, control: bool) -> None:
        self.name = name
        self._state_dir = state_dir
        self._control = control

    @property
    def pid(self) -> int | None:
        """The present pid."""
        return self._entry()["pid"]

    @property
    def ports(self) -> dict[str, int]:
        """Short name → loopback port."""
        return self._entry()["ports"]

    @property
    def state(self) -> State:
        """`running` once it was ready."""
        return self._entry()["state"]

    @property
    def restarts(self) -> int:
        """How often the supervisor started it again."""
        return self._entry()["restarts"]

    @property
    def log(self) -> Path:
        """Its log file."""
        return Path(self._entry()["log"])

    def log_text(self) -> str:
        """The whole log."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """kill -9 of the process and its descendants; returns when they are gone."""
        family = self._harm(signal.SIGKILL)
        wait_until(lambda: not any(m.is_alive() for m in family), timeout_s=10.0, what=f"end of {self.name}")

    def terminate(self) -> None:
        """SIGTERM to the process itself; returns at once."""
        self._harm(signal.SIGTERM, whole_family=False)

    def pause(self) -> None:
        """SIGSTOP of the process and its descendants."""
        self._harm(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT of the process and its descendants."""
        self._harm(signal.SIGCONT)

    def wait_ready(self, timeout_s: float = 60.0, *, other_than: int | None = None) -> int:
        """Wait until it is `running`, as another process than `other_than` if given, and return its pid."""
        self.wait_for(lambda e: e["state"] == "running" and e["pid"] not in (None, other_than), timeout_s)
        pid = self.pid
        if pid is None:
            raise NotRunningError(f"{self.name} ended right after it was ready; see {self.log}")
        return pid

    def wait_for(self, condition: Callable[[ProcessEntry], bool], timeout_s: float) -> None:
        """Wait for any condition on its entry in the status."""
        wait_until(lambda: condition(self._entry()), timeout_s=timeout_s, what=f"state of {self.name}")

    def _entry(self) -> ProcessEntry:
        return find_process_entry(read_stack_status(self._state_dir), self.name)

    def _harm(self, signum: signal.Signals, *, whole_family: bool = True) -> list[ProcessIdentity]:
        if not self._control:
            raise NotOwnedError(
                f"{self.name} belongs to the shared stack in {self._state_dir.root}; start a private one "
                "(Stack.extra_redis and its like), or attach with control=True"
            )
        identity = read_identity(self._entry().get("identity"))
        if identity is None:
            raise NotRunningError(f"{self.name} is not running")
        family = identity.process_tree() if whole_family else [identity]
        for member in family:
            member.send(signum)
        return family
