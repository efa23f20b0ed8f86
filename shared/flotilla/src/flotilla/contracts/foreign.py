"""Events of processes that are not ours: read as they are meant, where strict JSON and RFC 3339 say no.

Taken: a byte order mark, Latin-1, times without seconds or offset (UTC), NaN and infinities, lone surrogates. What no
store holds comes out escaped (`flotilla.contracts.values`), and `data` then lists where, in its member `escaped`. Data
that is nested deeper than any store should meet keeps its plain members, and its member `unreadable` says why.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flotilla.contracts.envelope import AgentEvent, decode_event, from_builtins
from flotilla.contracts.errors import Invalid, Undecodable
from flotilla.contracts.values import ESCAPED, MAX_DEPTH, StorableJson, check_nesting_depth, to_storable

_NUL = b"\\u0000"
_DATA = "/data"
# A string, whether or not it ends, or a bracket; never goes back: linear.
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?+|[\[\]{}]', re.DOTALL)
UNREADABLE = "unreadable"


def decode_foreign_agent_event(body: bytes) -> AgentEvent:
    """One CloudEvent, with data that every store holds.

    Raises:
        Undecodable: no JSON object, or an attribute is missing or of the wrong type.
    """
    try:
        event = decode_event(body)
    except Undecodable as refused:
        return from_builtins(_document(body, refused), AgentEvent)
    if _NUL in body:
        return from_builtins(_document(body, Undecodable("not JSON")), AgentEvent)
    return _within_depth(event, body)  # strict JSON in UTF-8 has nothing else that a store refuses


def read_foreign_document(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` is meant to be, with data that every store holds, whatever its members.

    Raises:
        Undecodable: no JSON object.
    """
    return _document(body, Undecodable("no JSON object"))


def _within_depth(event: AgentEvent, body: bytes) -> AgentEvent:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return event
    try:
        check_nesting_depth(event.data)
    except Invalid as error:
        return replace(event, data=_plain_members(event.data, str(error)))
    return event


def _document(body: bytes, refused: Undecodable) -> dict[str, Any]:
    try:
        kept = _kept(_loaded(_text(body)))
    except (ValueError, RecursionError, Invalid) as error:
        raise Undecodable(f"not a CloudEvent: {error}") from refused
    document = kept.value
    if not isinstance(document, dict) or document.get("specversion", "1.0") != "1.0":
        raise refused
    _mark(document.get("data"), kept.escaped)
    if "time" in document:
        document["time"] = _time(document.pop("time"))
    return {name: value for name, value in document.items() if value is not None}


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        document = json.loads(_cut_off(text))
        if isinstance(document, dict) and isinstance(document.get("data"), dict):
            document["data"] = _plain_members(document["data"], f"the value is nested deeper than {MAX_DEPTH} levels")
        return document


def _cut_off(text: str) -> str:
    """`text` with null for each array and object that is deeper than any reader goes."""
    kept, depth, start = list[str](), 0, 0
    for token in _TOKENS.finditer(text):
        if token.group() in {"[", "{"}:
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept.append(f"{text[start : token.start()]}null")
        elif token.group() in {"]", "}"}:
            if depth == MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    return "".join([*kept, text[start:]])


def _kept(document: Any) -> StorableJson:
    try:
        return to_storable(document)
    except Invalid as error:
        if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
            raise
        return to_storable({**document, "data": _plain_members(document["data"], str(error))})


def _plain_members(data: Mapping[str, Any], why: str) -> dict[str, Any]:
    plain = {name: value for name, value in data.items() if not isinstance(value, dict | list)}
    return {**plain, UNREADABLE: why}


def _mark(data: object, escaped: list[str]) -> None:
    """Lists in `data` where in it text stands for what no store holds."""
    places = [place.removeprefix(_DATA) for place in escaped if place.startswith(_DATA + "/")]
    if isinstance(data, dict) and places:
        data[ESCAPED] = places


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
