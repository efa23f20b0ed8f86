"""What a starting or stopping stack reports, one event at a time."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, Self

Kind = Literal["server", "service", "stack"]
Phase = Literal["preparing", "starting", "ready", "failed", "restarting", "stopping", "stopped"]


@dataclass(frozen=True)
class ProgressEvent:
    """One step of one process: `seconds` counts from the begin of its start or stop."""

    name: str
    kind: Kind
    phase: Phase
    seconds: float
    detail: str = ""


Listener = Callable[[ProgressEvent], None]


def ignore_progress(_event: ProgressEvent) -> None:
    """The listener of those who do not listen."""


class PhaseReporter:
    """Reports the phases of one process with the seconds since it was made."""

    def __init__(self, name: str, kind: Kind, listener: Listener) -> None:
        self._name, self._kind, self._listener = name, kind, listener
        self._begin = time.monotonic()

    def report_phase(self, phase: Phase, detail: str = "") -> None:
        """Tell the listener that `phase` begins now."""
        self._listener(ProgressEvent(self._name, self._kind, phase, round(time.monotonic() - self._begin, 3), detail))


class ProgressJournal:
    """The events of a supervisor's life as JSON lines, for those who follow from another process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start_new_journal(self) -> None:
        """Start over: a fresh file takes the place of the old one, so that followers notice."""
        self._path.unlink(missing_ok=True)
        self._path.touch()

    def append_event(self, event: ProgressEvent) -> None:
        """Append one event; lines are whole, since each is one short write in append mode."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(event)) + "\n")

    def follow_events(self) -> "JournalReader":
        """A reader of the events written so far and from now on."""
        return JournalReader(self._path)


class JournalReader:
    """Reads a journal while it grows, across its replacement by a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._inode = -1
        self._rest = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def skip(self) -> None:
        """Leave out everything written up to now."""
        self.read()

    def read(self) -> list[ProgressEvent]:
        """The events that were written since the last call; never waits."""
        self._reopen_when_replaced()
        if self._file is None:
            return []
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        return [ProgressEvent(**json.loads(line)) for line in lines if line]

    def _reopen_when_replaced(self) -> None:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            return
        if inode != self._inode:
            if self._file is not None:
                self._file.close()
            self._file, self._inode, self._rest = self._path.open(encoding="utf-8"), inode, ""
