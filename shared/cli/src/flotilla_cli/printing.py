"""How answers look: tables and fields for people, JSON for programs.

Everything that comes from documents, models and other people is text: characters with which it could rewrite the
terminal, hide something or turn the order of letters are shown as escapes.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from flotilla.contracts.visible_text import escape_invisible, escape_invisible_in_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Document: TypeAlias = Mapping[str, Any]
"""One JSON object as the gateway sent it."""

WIDTH_WITHOUT_TERMINAL = 200


class OutputFormat(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"


def escape_for_terminal(text: object) -> str:
    """Return text that cannot act on the terminal, and hides nothing."""
    return escape_invisible(str(text))


def stdout_console() -> "Console":
    """Standard output."""
    return _console(stderr=False)


def stderr_console() -> "Console":
    """Standard error: progress, hints, problems."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_WITHOUT_TERMINAL
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def say(text: str = "", style: str | None = None) -> None:
    """One line on standard output."""
    stdout_console().print(escape_for_terminal(text), style=style, soft_wrap=True)


def print_notice(text: str, style: str | None = "dim") -> None:
    """One line on standard error."""
    stderr_console().print(escape_for_terminal(text), style=style, soft_wrap=True)


def write_stdout(text: str) -> None:
    """A piece of a line on standard output, at once."""
    sys.stdout.write(escape_for_terminal(text))
    sys.stdout.flush()


def print_json(value: object) -> None:
    """One JSON document; invisible characters as escapes; ASCII only where the terminal can't show more."""
    sys.stdout.write(escape_invisible_in_json(json.dumps(value, indent=2, ensure_ascii=not _speaks_utf8())) + "\n")


def print_json_line(value: object) -> None:
    """One JSON document on one line, at once, for streams of them."""
    sys.stdout.write(escape_invisible_in_json(json.dumps(value, ensure_ascii=not _speaks_utf8())) + "\n")
    sys.stdout.flush()


def _speaks_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


@dataclass(frozen=True)
class TableColumn:
    """One column: a title, and a field's name or a way to make the text."""

    title: str
    value: str | Callable[[Document], object]
    justify: Literal["left", "right"] = "left"
    style: str | None = None

    def cell(self, row: Document) -> str:
        """The text for one row."""
        value = row.get(self.value) if isinstance(self.value, str) else self.value(row)
        return format_json_value(value)


def format_json_value(value: object) -> str:
    """A JSON value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return escape_invisible_in_json(json.dumps(value, ensure_ascii=False))
    return escape_for_terminal(value)


def print_table(rows: Sequence[Document], columns: Iterable[TableColumn], empty: str) -> None:
    """A table, or what it means that there is none."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print_notice(empty)
        return
    columns = list(columns)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title.upper(), justify=column.justify, style=column.style, overflow="fold")
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    _print_table(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """`name  value` lines; fields without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, "", [], {}):
            table.add_row(Text(escape_for_terminal(name)), Text(format_json_value(value)))
    _print_table(table)


def _print_table(table: "Table") -> None:
    """Without the last column's padding where nobody sees it but programs."""
    out = stdout_console()
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def age(timestamp: object) -> str:
    """How long ago an RFC 3339 time was; `in 3h` for one to come."""
    if not isinstance(timestamp, str):
        return "-"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()
    return f"{format_duration(seconds)} ago" if seconds >= 0 else f"in {format_duration(-seconds)}"


def format_duration(seconds: float) -> str:
    """A span of time in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def shorten_to_line(text: object, length: int = 60) -> str:
    """One line of at most `length` characters."""
    line = " ".join(escape_for_terminal(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
