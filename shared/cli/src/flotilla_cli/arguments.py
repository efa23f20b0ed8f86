"""Arguments that need reading: `k=v` pairs, JSON, amounts, spans of time."""

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from flotilla.contracts.values import why_not_storable
from flotilla_cli.errors import Misuse

_SPAN = re.compile(r"(\d{1,18})([smhdw])")
MAX_ZEROS = 30
"""Of an amount, before or behind the point: written out, `1e999999999` would fill the memory."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_key_values(pairs: Iterable[str]) -> dict[str, Any]:
    """`k=v` arguments as an object. A value that is JSON is taken as such (`n=3`, `on=true`, `s='"3"'`), else as text.

    Raises:
        Misuse: a pair without `=` or without a name, the same name twice, or a value that no store holds.
    """
    found = {name: _value(text) for name, text in parse_key_texts(pairs).items()}
    for name, value in found.items():
        if why := why_not_storable(value):
            raise Misuse(f"{name}: {why}", "no store holds it: write it in another way")
    return found


def parse_key_texts(pairs: Iterable[str]) -> dict[str, str]:
    """`k=v` arguments as names and texts, as they were written.

    Raises:
        Misuse: a pair without `=` or without a name, or the same name twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Misuse(f"{pair!r} is not an argument", "write it as name=value")
        if name in found:
            raise Misuse(f"{name} is given twice")
        found[name] = value
    return found


def _value(text: str) -> Any:
    try:
        return _read_json(text)
    except ValueError:
        return text


def _read_json(text: str) -> Any:
    """JSON that everybody reads in the same way.

    Raises:
        ValueError: it is not JSON, a number is infinite or NaN, a name is there twice, or it is nested too deeply.
    """
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_doubles
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is larger than any number that programs exchange")
    return number


def _without_doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        names = [name for name, _ in members]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def parse_json_object(text: str) -> dict[str, Any]:
    """A JSON object given as text, or as `@FILE`.

    Raises:
        Misuse: the file cannot be read, it is not a JSON object, or it has what no store holds.
    """
    try:
        written = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        document = _read_json(written.removeprefix("\ufeff"))
    except (OSError, ValueError) as error:
        raise Misuse(f"not a JSON object: {error}", """write it as '{"query": "…"}', or as @FILE""") from error
    if not isinstance(document, dict):
        raise Misuse(f"a JSON object is needed, not {text[:40]!r}", """write it as '{"query": "…"}', or as @FILE""")
    if why := why_not_storable(document):
        raise Misuse(f"the JSON object can't be used: {why}", "no store holds it: write it in another way")
    return document


def parse_amount(text: str) -> str:
    """A positive decimal amount, as it was written.

    Raises:
        Misuse: it is none.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise Misuse(f"{text!r} is not an amount", "write it like 12.50") from None
    if not amount.is_finite() or amount <= 0 or abs(amount.adjusted()) > MAX_ZEROS:
        raise Misuse(f"{text} is not a positive amount", "write it like 12.50")
    return format(amount, "f")


def parse_expiry(text: str, now: datetime | None = None) -> datetime:
    """When a span like `90d` from now is over.

    Raises:
        Misuse: it is none.
    """
    match = _SPAN.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise Misuse(f"{text!r} is not a time span", "write it like 12h, 90d or 4w")
    try:
        return (now or datetime.now(UTC)) + timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise Misuse(f"{text!r} ends after the year 9999", "write it like 12h, 90d or 4w") from None


def check_timestamp(text: str) -> None:
    """Refuse what is not an RFC 3339 time with its offset.

    Raises:
        Misuse: it is none.
    """
    hint = "write it like 2026-05-01T12:00:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Misuse(f"{text!r} is not a time", hint) from error
    if moment.tzinfo is None:
        raise Misuse(f"{text!r} has no UTC offset", hint)
