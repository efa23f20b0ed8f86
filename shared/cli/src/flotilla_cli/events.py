"""How session events and live events look, a line each."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flotilla_cli.answers import format_step
from flotilla_cli.live import LiveEvent
from flotilla_cli.printing import Document, TableColumn, print_table, say, shorten_to_line, write_stdout

_PREFIX = "flotilla.session."
_WIDTH = 90
_LONGEST_MS = 1e12


def event_kind(event: Document) -> str:
    """`tool_call` of `flotilla.session.tool_call.v1`."""
    wire_type = str(event.get("type", "?"))
    return wire_type.removeprefix(_PREFIX).rsplit(".v", 1)[0] if wire_type.startswith(_PREFIX) else wire_type


def summarize_event(event: Document) -> str:
    """What happened, in one line."""
    data = event.get("data") or {}
    if not isinstance(data, dict):
        return shorten_to_line(data, _WIDTH)
    return shorten_to_line(_SUMMARIES.get(event_kind(event), _as_json)(data), _WIDTH)


def _as_json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


def _message(data: Mapping[str, Any]) -> str:
    return f"{data.get('role')}: {data.get('content')}"


def _tool_call(data: Mapping[str, Any]) -> str:
    given = data.get("args") or {}
    if not isinstance(given, dict):
        return f"{data.get('tool')}({_as_json(given)})"
    return f"{data.get('tool')}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _tool_result(data: Mapping[str, Any]) -> str:
    outcome = "ok" if data.get("ok") else f"failed: {data.get('error')}"
    duration_ms = data.get("duration_ms")
    took = (
        f" in {duration_ms:.0f} ms" if isinstance(duration_ms, int | float) and abs(duration_ms) < _LONGEST_MS else ""
    )
    return f"{data.get('tool')} {outcome}{took}"


def _state_change(data: Mapping[str, Any]) -> str:
    parts = [str(data.get("change")), f"status={data['status']}" if data.get("status") else ""]
    parts += [f"{name}={_as_json(data[name])}" for name in ("set", "unset", "details") if data.get(name)]
    return " ".join(part for part in parts if part)


def _error(data: Mapping[str, Any]) -> str:
    return f"{data.get('type')} in {data.get('where')}: {data.get('message')}"


_SUMMARIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "message": _message,
    "tool_call": _tool_call,
    "tool_result": _tool_result,
    "state_change": _state_change,
    "error": _error,
}
EVENT_COLUMNS = (
    TableColumn("seq", "sequence", "right"),
    TableColumn("time", lambda event: str(event.get("time", "-"))[:23].replace("T", " ")),
    TableColumn("kind", event_kind),
    TableColumn("source", "source"),
    TableColumn("what", summarize_event),
)


def print_events(events: Sequence[Document], empty: str) -> None:
    """Session events as a table."""
    print_table(events, EVENT_COLUMNS, empty)


_DIFFERENCES = {"messages": "message", "tool_calls": "tool_call", "tool_results": "tool_result", "errors": "error"}


def print_state_diff(diff: Document) -> None:
    """What lies between two states, a line each: `+` is there now, `-` is not any more, `~` is another."""
    rows = [_changed("status", diff["status"])] if diff.get("status") else []
    rows += [_changed(name, change) for name, change in (diff.get("variables") or {}).items()]
    for mark, how in (("-", "removed"), ("+", "added")):
        for name, kind in _DIFFERENCES.items():
            rows += [_differs(mark, kind, one) for one in diff.get(f"{name}_{how}") or []]
    print_table(rows, _DIFFERENCE_COLUMNS, f"Nothing differs between event {diff['from_seq']} and {diff['to_seq']}.")


def _changed(name: str, change: Mapping[str, Any]) -> Document:
    before, after = (_as_json(change.get(side)) for side in ("before", "after"))
    return {"mark": "~", "kind": name, "what": shorten_to_line(f"{before} → {after}", _WIDTH)}


def _differs(mark: str, kind: str, one: Mapping[str, Any]) -> Document:
    return {"mark": mark, "seq": one.get("seq"), "kind": kind, "what": shorten_to_line(_SUMMARIES[kind](one), _WIDTH)}


_DIFFERENCE_COLUMNS = (
    TableColumn("", "mark"),
    TableColumn("seq", "seq", "right"),
    TableColumn("kind", "kind"),
    TableColumn("what", "what"),
)


class LivePrinter:
    """Prints live events a line each, tokens as running text."""

    def __init__(self) -> None:
        self._in_text = False

    def take(self, event: LiveEvent) -> None:
        """Show one live event."""
        if event.kind == "token":
            self._in_text = True
            write_stdout(str(event.data.get("text", "")))
            return
        if self._in_text:
            self._in_text = False
            write_stdout("\n")
        say(_line(event))


def _line(event: LiveEvent) -> str:
    data = event.data if isinstance(event.data, dict) else {}
    if event.kind == "session_event":
        return f"{data.get('sequence', '?'):>4}  {event_kind(data):13} {summarize_event(data)}"
    if event.kind == "step":
        return f"      step          {format_step(data)}"
    if event.kind == "reset":
        return f"      reset         attempt {data.get('attempt', '?')} starts its answer again"
    return f"      {event.kind:13} {data.get('status', '')}"
