"""A starting or stopping stack, live: a line per process on a terminal, a line per finished phase elsewhere."""

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flotilla_cli.printing import print_notice, shorten_to_line, stderr_console

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from flotilla_devstack import ProgressEvent

_SETTLED = ("ready", "stopped", "failed")
_MARKS = {"ready": "[green]✓[/]", "stopped": "[green]✓[/]", "failed": "[red]✗[/]"}


class StackProgressView:
    """Takes the stack's progress events; also the `with` block during which they are shown."""

    def __init__(self) -> None:
        self._latest: dict[str, ProgressEvent] = {}
        self._lock = threading.Lock()
        self._live = _make_live(self) if stderr_console().is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def take(self, event: "ProgressEvent") -> None:
        """Show one event."""
        with self._lock:
            self._latest[event.name] = event
        if self._live is None and event.phase in (*_SETTLED, "restarting"):
            detail = shorten_to_line(event.detail, 300)
            print_notice(f"{event.seconds:6.1f} s  {event.name:16} {event.phase:10} {detail}".rstrip(), None)

    def __rich__(self) -> "Table":
        """All processes, each with its present phase."""
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        with self._lock:
            events = list(self._latest.values())
        for event in events:
            mark = Text.from_markup(_MARKS[event.phase]) if event.phase in _SETTLED else Spinner("dots")
            cells = (event.name, event.phase, f"{event.seconds:.1f} s", shorten_to_line(event.detail, 80))
            table.add_row(mark, *(Text(cell) for cell in cells))
        return table


def _make_live(view: StackProgressView) -> "Live":
    from rich.live import Live

    return Live(view, console=stderr_console(), refresh_per_second=10)
