"""Starts again what ends on its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from flotilla_devstack.progress import Listener, Phase, ProgressEvent
from flotilla_devstack.unit import ManagedProcess

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
STABLE_AFTER_S = 10.0


@dataclass
class RestartBackoff:
    """0.2 s, doubling to 5 s, and 0.2 s again once a process ran for 10 s. Times are of one monotonic clock."""

    started_at: float
    next_delay_s: float = FIRST_DELAY_S

    def delay_after_exit(self, now: float) -> float:
        """How long to wait before the next start of a process that was found ended `now`."""
        if now - self.started_at >= STABLE_AFTER_S:
            self.next_delay_s = FIRST_DELAY_S
        delay = self.next_delay_s
        self.next_delay_s = min(delay * 2, LONGEST_DELAY_S)
        return delay


class _Watched:
    """One process under the keeper's eyes."""

    def __init__(self, unit: ManagedProcess) -> None:
        self.unit = unit
        self.backoff = RestartBackoff(started_at=float("-inf"))
        self.due_at: float | None = None


class ProcessWatchdog:
    """Looks at every process when `tick` is called; for one thread. Never waits for a process to get ready."""

    def __init__(self, units: Sequence[ManagedProcess], listener: Listener) -> None:
        self._watched = [_Watched(unit) for unit in units]
        self._listener = listener

    def add_units(self, units: Sequence[ManagedProcess]) -> None:
        """Look at these, too, from now on."""
        self._watched += [_Watched(unit) for unit in units]

    def tick(self, now: float) -> None:
        """Note who ended, start whose time has come, and note who is ready again."""
        for watched in self._watched:
            if watched.due_at is not None:
                self._start_if_due(watched, now)
            elif not watched.unit.is_running():
                self._schedule(watched, now)
            elif watched.unit.state == "starting" and watched.unit.is_ready():
                self._note_ready(watched, now)

    def _schedule(self, watched: _Watched, now: float) -> None:
        unit = watched.unit
        delay = watched.backoff.delay_after_exit(now)
        watched.due_at = now + delay
        unit.state = "restarting"
        self._tell(unit, "restarting", f"it ended with code {unit.returncode}; again in {delay:g} s, see {unit.log}")

    def _start_if_due(self, watched: _Watched, now: float) -> None:
        if watched.due_at is None or now < watched.due_at:
            return
        watched.due_at = None
        watched.backoff.started_at = now
        watched.unit.restarts += 1
        try:
            watched.unit.start()
        except OSError as error:  # no program, no memory: the next tick finds it not running and waits longer
            self._tell(watched.unit, "failed", str(error))

    def _note_ready(self, watched: _Watched, now: float) -> None:
        watched.unit.state = "running"
        self._tell(watched.unit, "ready", f"again, {now - watched.backoff.started_at:.1f} s after its restart")

    def _tell(self, unit: ManagedProcess, phase: Phase, detail: str) -> None:
        self._listener(ProgressEvent(unit.name, unit.kind, phase, 0.0, detail))
