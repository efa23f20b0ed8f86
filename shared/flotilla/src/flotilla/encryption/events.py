"""What of an event is encrypted, and what stays clear because queries, proofs or rules need it.

The envelope stays clear, and of the data what counts and orders: kind, names of tools, changes, statuses, durations.
All other members of `data` become one, `sealed`. The clear ones count where both say something, so nothing that is
hidden steers a session.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from flotilla.contracts.envelope import to_json
from flotilla.contracts.event_rules import RESERVED_CHANGES
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import SessionEventKind, session_event_kind
from flotilla.encryption.cipher import ERASED, UNREADABLE, DataKey, Unreadable, is_sealed

SEALED = "sealed"
"""The member of an event's data that holds the encrypted ones."""
CLEAR: Mapping[SessionEventKind, frozenset[str]] = MappingProxyType(
    {
        "message": frozenset({"role"}),
        "tool_call": frozenset({"tool", "call_id", "agent"}),
        "tool_result": frozenset({"tool", "call_id", "agent", "ok", "duration_ms"}),
        "state_change": frozenset({"change", "status"}),
        "error": frozenset({"type", "where", "retryable", "attempt"}),
    }
)
"""By kind, the members of `data` that stay clear."""
CLEAR_DETAILS = frozenset(
    {
        *("parent_session_id", "at_seq", "to_seq"),
        *("run_id", "parent_run_id", "schedule_id", "workflow", "version", "status", "if_active"),
        *("task_id", "action_id", "attempt_id", "question_id", "action", "risk_level"),
        # What proves a vote without anybody's words: who, for which content, and the signatures.
        *("subject", "decision", "content_hash", "next_content_hash", "approvals", "quorum", "signature"),
        *("exclude_requester", "policy_version", "refusal", "proof", "receipt", "voters"),
        "erasure_id",
    }
)
"""The members of `details` that stay clear, of the changes that only the fleet's services write."""
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_decode_members = msgspec.json.Decoder(dict[str, Any]).decode


def sealed_data(kind: SessionEventKind, data: JsonObject, key: DataKey | None, event_id: str) -> JsonObject:
    """`data` with its personal part encrypted, bound to the event; without a key, because it was destroyed, dropped."""
    clear, personal = _parted(kind, data)
    if personal:
        clear[SEALED] = ERASED if key is None else key.seal_text(to_json(personal), place_of(event_id))
    return clear


def opened_data(
    event_type: str, event_id: str, data: JsonObject, key: DataKey | None, *, is_erased: bool
) -> JsonObject:
    """An event's data as it was recorded; without a key, or if it was tampered with, marked."""
    kind = session_event_kind(event_type)
    sealed = data.get(SEALED)
    if kind is None or not _is_hidden(sealed):
        return data
    if key is None or sealed == ERASED:
        return _marked(kind, data, ERASED if is_erased or sealed == ERASED else UNREADABLE)
    try:
        personal = _decode_members(key.open_text(str(sealed), place_of(event_id)))
    except (Unreadable, msgspec.MsgspecError):
        return _marked(kind, data, UNREADABLE)
    return _joined(kind, data, personal)


def holds_sealed(data: Mapping[str, object]) -> bool:
    """Whether part of an event's data is encrypted, or was dropped since its key was destroyed."""
    return _is_hidden(data.get(SEALED))


def _is_hidden(sealed: object) -> bool:
    return is_sealed(sealed) or sealed == ERASED


def place_of(event_id: str) -> str:
    """The place of an event's data, for its ciphertext."""
    return f"event/{event_id}"


def _parted(kind: SessionEventKind, data: JsonObject) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members that stay clear, and the others; these are none where they hold nothing."""
    clear, personal = _split(data, CLEAR[kind])
    details = data.get("details")
    if kind == "state_change" and isinstance(details, dict) and _is_reserved(data.get("change")):
        clear["details"], personal["details"] = _split(details, CLEAR_DETAILS)
    if all(value in _NOTHING for value in personal.values()):
        return dict(data), {}
    return clear, personal


def _joined(kind: SessionEventKind, data: JsonObject, personal: dict[str, Any]) -> JsonObject:
    """Both parts of an event's data. Where both have a member, the clear one counts."""
    names = CLEAR[kind]
    both: dict[str, Any] = {name: value for name, value in personal.items() if name not in names}
    both.update(data)
    del both[SEALED]
    hidden, shown = personal.get("details"), data.get("details")
    if kind == "state_change" and isinstance(hidden, dict) and isinstance(shown, dict):
        both["details"] = {**_split(hidden, CLEAR_DETAILS)[1], **shown}
    return both


def _split(data: Mapping[str, Any], names: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members of these names, and the others."""
    named = {name: value for name, value in data.items() if name in names}
    return named, {name: value for name, value in data.items() if name not in names}


def _marked(kind: SessionEventKind, data: JsonObject, mark: str) -> JsonObject:
    """Data of this kind in which `mark` takes the place of what can't be read."""
    clear: dict[str, Any] = {name: value for name, value in data.items() if name != SEALED}
    match kind:
        case "message":
            return {**clear, "content": mark}
        case "tool_call":
            return {**clear, "args": {"text": mark}}
        case "tool_result":
            return {**clear, "result": mark, "error": None if clear.get("ok") else mark}
        case "state_change":
            return {**clear, "details": {**clear.get("details", {}), "text": mark}}
        case "error":
            return {**clear, "message": mark}


def _is_reserved(change: object) -> bool:
    return isinstance(change, str) and change.startswith(tuple(RESERVED_CHANGES))
