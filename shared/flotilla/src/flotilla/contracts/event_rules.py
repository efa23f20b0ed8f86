"""Who may write which session events, as data: checked where an event is appended, projected, folded and verified.

Any source may write messages, tool calls and results, errors, and changes with names of its own. A change that steers a
run, an action, an approval, an order or the session itself is none of an agent's, or of a service's outside the fleet;
those of the tenant's audit session are the services' alone.
"""

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import msgspec

from flotilla.contracts.names import AUDIT_SESSION, SERVICE_PREFIX
from flotilla.contracts.session_events import FORKED, ROLLED_BACK, session_event_kind

Party: TypeAlias = Literal["agent", "service", "gateway", "worker", "program"]

AGENT_PREFIX = "/agents/"
_EXACT: Mapping[str, Party] = MappingProxyType({"/gateway": "gateway", "/workflow-worker": "worker"})

_SERVICES: frozenset[Party] = frozenset({"gateway", "worker"})
_GATEWAY: frozenset[Party] = frozenset({"gateway"})
_NO_AGENT: frozenset[Party] = frozenset({"gateway", "worker", "program"})
RESERVED_CHANGES: Mapping[str, frozenset[Party]] = MappingProxyType(
    {
        FORKED: _NO_AGENT,
        ROLLED_BACK: _NO_AGENT,
        "run_": _NO_AGENT,
        "action_": _NO_AGENT,
        "approval_": _NO_AGENT,
        "order_": _NO_AGENT,
        "answer_published": _NO_AGENT,
        "task_submitted": _NO_AGENT,
        "task_finished": _NO_AGENT,
        "access_changed": _GATEWAY,
        "owner_changed": _GATEWAY,
        "api_key_": _SERVICES,
        "roles_changed": _SERVICES,
        "policy_changed": _SERVICES,
        "signer_": _SERVICES,
        "knowledge_document_": _GATEWAY,
        "mcp_tool_": _GATEWAY,
        "agent_route_": _GATEWAY,
        "privacy_": _SERVICES,
        "tenant_": _SERVICES,
        "parked_history_": _GATEWAY,
        "audit_archive_": _GATEWAY,
        "subject_erased": _SERVICES,
        "session_expired": _SERVICES,
    }
)
"""The changes of `state_change` that not everybody may write, by the beginning of their names, and who may."""
AUDIT_CHANGES = (
    "api_key_",
    "roles_changed",
    "policy_changed",
    "signer_",
    "knowledge_document_",
    "mcp_tool_",
    "agent_route_",
    "privacy_",
    "tenant_",
    "parked_history_",
    "audit_archive_",
)
"""Those of the tenant's audit session, which holds nothing else."""


class EventClaims(msgspec.Struct, frozen=True):
    """What of an event's data the rules look at; of any type, so that none of them hides another."""

    change: Any = ""
    role: Any = ""
    agent: Any = ""


def writer_kind(source: str) -> Party:
    """Whose source it is; one like an agent's is an agent's, an unknown one a program's that uses the library."""
    if (party := _EXACT.get(source)) is not None:
        return party
    if source.startswith("/workflows/"):
        return "worker"
    if source.startswith(SERVICE_PREFIX):
        return "service"
    return "agent" if _plain(source).startswith("agents") else "program"


def write_violation(source: str, wire_type: str, claims: EventClaims, session_id: str) -> str | None:
    """Why `source` may not write this event into this session; None when it may."""
    kind, party = session_event_kind(wire_type), writer_kind(source)
    name = _plain(claims.change) if kind == "state_change" and isinstance(claims.change, str) else ""
    if (session_id == AUDIT_SESSION) != name.startswith(AUDIT_CHANGES):
        what = f"state_change {claims.change!r}" if name else kind
        return (
            f"{source} may not write {what}: session {AUDIT_SESSION} is for keys, roles, policy, signers "
            "and removed documents, and they for it"
        )
    if kind == "state_change":
        reserved = (allowed for start, allowed in RESERVED_CHANGES.items() if name.startswith(start))
        if any(party not in allowed for allowed in reserved):
            return f"{source} may not write state_change {claims.change!r}"
    elif party in ("agent", "service"):
        if kind == "message" and claims.role == "user":
            return f"{source} may not write a message of the user"
        if claims.agent not in ("", source.removeprefix(AGENT_PREFIX).removeprefix(SERVICE_PREFIX)):
            return f"{source} may not write a {kind} of agent {claims.agent!r}"
    return None


def write_violation_of_data(source: str, wire_type: str, data: object, session_id: str) -> str | None:
    """The same for an event's data as JSON (`msgspec.Raw`) or plain; data that is not an object steers nothing."""
    try:
        claims = _read_claims(data) if isinstance(data, msgspec.Raw) else msgspec.convert(data, EventClaims)
    except RecursionError:
        return f"{source} may not write data that is nested so deeply"
    except ValueError:
        return None
    return write_violation(source, wire_type, claims, session_id)


def _plain(name: str) -> str:
    """The name without what makes it only look different: case, compatibility forms, marks, invisible characters."""
    if name.isascii():
        return name.lower().translate(_NOT_PLAIN)
    # Without the marks first: a run of them is sorted in time that grows with the square of its length.
    unmarked = "".join(char for char in name if not unicodedata.combining(char))
    folded = unicodedata.normalize("NFKC", unmarked).casefold()
    return "".join(char for char in folded if char.isalnum() or char == "_")


_NOT_PLAIN = {code: None for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}
_read_claims = msgspec.json.Decoder(EventClaims).decode
