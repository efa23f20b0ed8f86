"""What changed in a session between two points of its log."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from flotilla.contracts.json_types import JsonValue
from flotilla.eventstore.path import SeqRange, last_common_seq
from flotilla.eventstore.state import ErrorEntry, MessageEntry, SessionState, ToolCallEntry, ToolResultEntry


class _HasSeq(Protocol):
    @property
    def seq(self) -> int: ...


P = TypeVar("P", bound=_HasSeq)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A value before and after; None also where there was none."""

    before: JsonValue
    after: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDiff:
    """From the state at `from_seq` to the state at `to_seq`; a rollback in between makes things `removed`."""

    session_id: str
    from_seq: int
    to_seq: int
    status: Change | None
    variables: dict[str, Change]
    """The variables that differ, by name."""
    messages_added: list[MessageEntry]
    tool_calls_added: list[ToolCallEntry]
    tool_results_added: list[ToolResultEntry]
    errors_added: list[ErrorEntry]
    messages_removed: list[MessageEntry] = field(default_factory=list)
    tool_calls_removed: list[ToolCallEntry] = field(default_factory=list)
    tool_results_removed: list[ToolResultEntry] = field(default_factory=list)
    errors_removed: list[ErrorEntry] = field(default_factory=list)


def diff_states(
    before: SessionState, after: SessionState, path_before: list[SeqRange], path_after: list[SeqRange]
) -> StateDiff:
    """The difference of two states of one session, each with the path that makes it up."""
    common = last_common_seq(path_before, path_after)
    status = None if before.status == after.status else Change(before=before.status, after=after.status)
    return StateDiff(
        session_id=after.session_id,
        from_seq=before.at_seq,
        to_seq=after.at_seq,
        status=status,
        variables=_changed_variables(before, after),
        messages_added=_items_after(after.messages, common),
        messages_removed=_items_after(before.messages, common),
        tool_calls_added=_items_after(after.tool_calls, common),
        tool_calls_removed=_items_after(before.tool_calls, common),
        tool_results_added=_items_after(after.tool_results, common),
        tool_results_removed=_items_after(before.tool_results, common),
        errors_added=_items_after(after.errors, common),
        errors_removed=_items_after(before.errors, common),
    )


def _changed_variables(before: SessionState, after: SessionState) -> dict[str, Change]:
    names = sorted({*before.variables, *after.variables})
    return {
        name: Change(before=before.variables.get(name), after=after.variables.get(name))
        for name in names
        if (name in before.variables, before.variables.get(name))
        != (name in after.variables, after.variables.get(name))
    }


def _items_after(items: Sequence[P], seq: int) -> list[P]:
    return list(items[bisect_right(items, seq, key=lambda item: item.seq) :])
