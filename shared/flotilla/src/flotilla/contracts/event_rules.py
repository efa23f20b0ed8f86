"""Who may write which session events, as data: checked where an event is appended, projected, folded and verified.

Any source may write messages, tool calls and results, errors, and changes with names of its own. A change that steers a
run, an action, an approval, an order or the session itself is reserved for the parts of Flotilla that decide it.
"""

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import msgspec

from flotilla.contracts.session_events import FORKED, ROLLED_BACK, session_event_kind

Party: TypeAlias = Literal["agent", "gateway", "worker", "program"]

AGENT_PREFIX = "/agents/"
_EXACT: Mapping[str, Party] = MappingProxyType({"/gateway": "gateway", "/workflow-worker": "worker"})
_PREFIXES: Mapping[str, Party] = MappingProxyType({AGENT_PREFIX: "agent", "/workflows/": "worker"})

_SERVICES: frozenset[Party] = frozenset({"gateway", "worker"})
_STORE: frozenset[Party] = frozenset({"gateway", "worker", "program"})
RESERVED_CHANGES: Mapping[str, frozenset[Party]] = MappingProxyType(
    {
        FORKED: _STORE,
        ROLLED_BACK: _STORE,
        "run_": _SERVICES,
        "action_": _SERVICES,
        "approval_": _SERVICES,
        "order_": _SERVICES,
        "answer_published": _SERVICES,
        "task_submitted": _SERVICES,
        "task_finished": _SERVICES,
    }
)
"""The changes of `state_change` that not everybody may write, by the beginning of their names, and who may."""


class Claims(msgspec.Struct, frozen=True):
    """What of an event's data the rules look at; of any type, so that none of them hides another."""

    change: Any = ""
    role: Any = ""
    agent: Any = ""


def party_of(source: str) -> Party:
    """Whose source it is; an unknown one is a program that uses the library on its own."""
    if (party := _EXACT.get(source)) is not None:
        return party
    return next((party for prefix, party in _PREFIXES.items() if source.startswith(prefix)), "program")


def violation(source: str, wire_type: str, claims: Claims) -> str | None:
    """Why `source` may not write this event; None when it may."""
    kind, party = session_event_kind(wire_type), party_of(source)
    if kind == "state_change":
        name = _plain(claims.change) if isinstance(claims.change, str) else ""
        reserved = (allowed for start, allowed in RESERVED_CHANGES.items() if name.startswith(start))
        if any(party not in allowed for allowed in reserved):
            return f"{source} may not write state_change {claims.change!r}"
    elif party == "agent":
        if kind == "message" and claims.role == "user":
            return f"{source} may not write a message of the user"
        if claims.agent not in ("", source.removeprefix(AGENT_PREFIX)):
            return f"{source} may not write a {kind} of agent {claims.agent!r}"
    return None


def violation_of(source: str, wire_type: str, data: object) -> str | None:
    """The same for an event's data as JSON (`msgspec.Raw`) or plain; data that is no object steers nothing."""
    try:
        claims = _read_claims(data) if isinstance(data, msgspec.Raw) else msgspec.convert(data, Claims)
    except RecursionError:
        return f"{source} may not write data that is nested so deeply"
    except ValueError:
        return None
    return violation(source, wire_type, claims)


def _plain(name: str) -> str:
    """The name without what makes it only look different: case, compatibility forms, marks, invisible characters."""
    if name.isascii() and name.islower() and name.replace("_", "").isalnum():
        return name
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in folded if char.isalnum() or char == "_")


_read_claims = msgspec.json.Decoder(Claims).decode
