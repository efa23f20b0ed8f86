"""Events of processes that are not ours: read as they are meant, where strict JSON and RFC 3339 say no.

Taken: a byte order mark, Latin-1, times without seconds or offset (UTC), NaN and infinities, lone surrogates. What no
store holds comes out escaped (`flotilla.contracts.values`).
"""

import json
from datetime import UTC, datetime
from typing import Any

from flotilla.contracts.envelope import AgentEvent, decode_event, from_builtins
from flotilla.contracts.errors import Invalid, Undecodable
from flotilla.contracts.values import storable

_NUL = b"\\u0000"


def read_event(body: bytes) -> AgentEvent:
    """One CloudEvent, with data that every store holds.

    Raises:
        Undecodable: no JSON object, or an attribute is missing or of the wrong type.
    """
    try:
        event = decode_event(body)
        if _NUL not in body:  # strict JSON in UTF-8 has nothing else that a store refuses
            return event
    except Undecodable as refused:
        document = _document(body, refused)
    else:
        document = _document(body, Undecodable("not JSON"))
    return from_builtins(document, AgentEvent)


def _document(body: bytes, refused: Undecodable) -> dict[str, Any]:
    try:
        document = storable(json.loads(_text(body))).value
    except (ValueError, RecursionError, Invalid) as error:
        raise Undecodable(f"not a CloudEvent: {error}") from refused
    if not isinstance(document, dict) or document.get("specversion", "1.0") != "1.0":
        raise refused
    if "time" in document:
        document["time"] = _time(document.pop("time"))
    return {name: value for name, value in document.items() if value is not None}


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return body.decode("latin-1")


def _time(text: object) -> datetime | None:
    """None for one that nobody can read: the event then has the time at which it is read."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
