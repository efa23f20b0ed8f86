"""Which values every store holds, and what is done with the others. The one place that decides, for every border.

PostgreSQL's text and jsonb hold no U+0000 (manual, "JSON Types"), UTF-8 holds no lone surrogate (RFC 3629), and JSON
has no NaN and no infinity. JSON has no limit on the digits of an integer, but Python and msgspec read at most 4,300.

What comes in from a caller is refused, with the place (`why_not_storable`). What a model, a tool or an agent made is
paid for or has happened: it is kept, with the text of an escape in place of such characters (`to_storable`), and those
who store it keep the places beside it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from flotilla.contracts.errors import Invalid

ESCAPED = "escaped"
"""The member of an event's data that lists, as JSON pointers, where text stands for what no store holds."""
MAX_DIGITS = 1000
MAX_DEPTH = 100
"""Levels of arrays and objects. Readers in other languages, and PostgreSQL, give up sooner or later; this is sooner."""
_NOT_HELD = re.compile("[\x00\ud800-\udfff]")
_TOO_LARGE = 10**MAX_DIGITS


@dataclass(frozen=True, slots=True)
class StorableJson:
    """Plain JSON data, and where in it (as JSON pointers, RFC 6901) text stands for what no store holds."""

    value: Any
    escaped: list[str] = field(default_factory=list)


def to_storable(value: object) -> StorableJson:
    """`value` as data that every store holds.

    A character that none holds becomes the text of its escape, such as `\\u0000`; NaN and the infinities become the
    texts `NaN`, `Infinity` and `-Infinity`, an integer of more than 1,000 digits its hexadecimal text.

    Raises:
        Invalid: it is nested deeper than 100 levels.
        TypeError: it holds something that JSON has no form for.
    """
    walk = _Walk()
    return StorableJson(walk.of(_plain(value), ""), walk.escaped)


def with_escaped_places(data: object, escaped: Sequence[str] = ()) -> dict[str, Any]:
    """The data of an event as every store holds it, with the list of the places that were escaped, if any were, here or
    (`escaped`) before."""
    kept = to_storable(data)
    places = [*escaped, *kept.escaped]
    value: dict[str, Any] = kept.value
    return {**value, ESCAPED: places} if places else value


def to_storable_text(text: str) -> str:
    """`text` with the characters that no store holds as their escapes."""
    return _NOT_HELD.sub(_escape, text)


def why_not_storable(value: object) -> str | None:
    """Why `value` can't be stored, with the place in it; None if it can."""
    try:
        kept = to_storable(value)
    except (Invalid, TypeError) as error:
        return str(error)
    if not kept.escaped:
        return None
    where = f"{kept.escaped[0]} holds" if kept.escaped[0] else "it holds"
    return f"{where} a NUL character, a lone surrogate, NaN, an infinity or an integer of over {MAX_DIGITS} digits"


def first_infinite(value: object) -> str | None:
    """Where in typed or plain data, as a JSON pointer, a number is NaN or an infinity; None where there is none.

    Raises:
        Invalid: it is nested deeper than Python can follow.
    """
    try:
        return next(_infinite(msgspec.to_builtins(value, builtin_types=(Decimal,), str_keys=True), ""), None)
    except RecursionError:
        raise _too_deep() from None


def _infinite(value: object, at: str) -> Iterator[str]:
    if (isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, Decimal) and not value.is_finite()
    ):
        yield at
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _infinite(member, f"{at}/{name}")
    elif isinstance(value, list | tuple):
        for number, member in enumerate(value):
            yield from _infinite(member, f"{at}/{number}")


def check_nesting_depth(value: object) -> None:
    """Raises Invalid for plain data that is nested deeper than 100 levels."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [member for inner in level for member in _members_of(inner)]
        if not level:
            return
    raise _too_deep()


def _members_of(value: object) -> Iterable[object]:
    """What is in `value` that may hold more."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (member for member in members if isinstance(member, dict | list))


def _plain(value: object) -> Any:
    try:
        return msgspec.to_builtins(value, str_keys=True)
    except RecursionError:
        raise _too_deep() from None


class _Walk:
    def __init__(self) -> None:
        self.escaped: list[str] = []

    def of(self, value: Any, at: str, depth: int = 0) -> Any:
        if isinstance(value, str):
            return self._text(value, at)
        if isinstance(value, dict | list | tuple):
            if depth >= MAX_DEPTH:
                raise _too_deep()
            return self._members(value, at, depth + 1)
        if isinstance(value, float) and not math.isfinite(value):
            return self._instead(at, "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity")
        if isinstance(value, int) and abs(value) >= _TOO_LARGE:
            return self._instead(at, hex(value))
        return value

    def _members(self, value: Any, at: str, depth: int) -> Any:
        if not isinstance(value, dict):
            return [self.of(member, f"{at}/{n}", depth) for n, member in enumerate(value)]
        members = {}
        for name, member in value.items():
            kept = to_storable_text(name)
            place = f"{at}/{kept.replace('~', '~0').replace('/', '~1')}"
            if kept != name:
                self.escaped.append(place)
            members[kept] = self.of(member, place, depth)
        return members

    def _text(self, text: str, at: str) -> str:
        kept = to_storable_text(text)
        return text if kept == text else self._instead(at, kept)

    def _instead(self, at: str, text: str) -> str:
        self.escaped.append(at)
        return text


def _escape(found: "re.Match[str]") -> str:
    return f"\\u{ord(found.group()):04x}"


def _too_deep() -> Invalid:
    return Invalid(f"the value is nested deeper than {MAX_DEPTH} levels")
