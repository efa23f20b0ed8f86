"""The list of processes that a state folder's owner started, kept on disk for the folder's next owner."""

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from flotilla_devstack.process import ProcessIdentity, end

_GRACE_S = 10.0


@dataclass(frozen=True)
class StartedProcess:
    """One started process and the signal that asks it to stop."""

    name: str
    identity: ProcessIdentity
    stop_signal: signal.Signals


class ProcessLedger:
    """Append-only JSON lines. Only the holder of the folder's lock uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def record_start(self, name: str, identity: ProcessIdentity, stop_signal: signal.Signals) -> None:
        """Note a process right after it was started."""
        line = {"name": name, "stop_signal": int(stop_signal), **asdict(identity)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def living_processes(self) -> list[StartedProcess]:
        """The recorded processes that still live, told by pid, start time and boot, never by name."""
        return [entry for entry in self._entries() if entry.identity.is_alive()]

    def kill_survivors(self) -> list[str]:
        """End every survivor (its own signal, SIGKILL after 10 s), forget all, and return the names of the ended."""
        survivors = self.living_processes()
        for stop_signal in {entry.stop_signal for entry in survivors}:
            end([e.identity for e in survivors if e.stop_signal == stop_signal], stop_signal, _GRACE_S)
        self._path.unlink(missing_ok=True)
        return [entry.name for entry in survivors]

    def _entries(self) -> list[StartedProcess]:
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return [entry for entry in map(_parse, lines) if entry]


def _parse(line: str) -> StartedProcess | None:
    try:
        fields = json.loads(line)
        identity = ProcessIdentity(fields["pid"], fields["started"], fields["boot"])
        return StartedProcess(fields["name"], identity, signal.Signals(fields["stop_signal"]))
    except (ValueError, KeyError, TypeError):  # the last line of an owner that was killed while it wrote
        return None
