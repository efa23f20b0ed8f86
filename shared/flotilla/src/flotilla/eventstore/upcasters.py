"""Schema versions: lifts events that older code wrote to the version that this code reads.

Each event's version is the end of its wire type (`flotilla.session.message.v1`). When a version 2 of a kind comes,
one function from v1 to v2 is registered here; stored events are never rewritten.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.errors import UnknownType
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import session_event_kind

Upcaster: TypeAlias = Callable[[JsonObject], tuple[str, JsonObject]]
"""Takes the data of one version; returns the wire type and the data of the next."""

UPCASTERS: Mapping[str, Upcaster] = MappingProxyType({})
"""By the wire type that they lift. Version 1 of every kind is the newest, so there is none yet."""


def is_known_event_type(wire_type: str, upcasters: Mapping[str, Upcaster] = UPCASTERS) -> bool:
    """Whether this code can read events of `wire_type`."""
    return session_event_kind(wire_type) is not None or wire_type in upcasters


def upcast_event(event: AgentEvent, upcasters: Mapping[str, Upcaster] = UPCASTERS) -> AgentEvent:
    """The event in the version that this code reads.

    Raises:
        UnknownType: a newer program wrote it, or it is not a session event.
    """
    wire_type, data = event.type, event.data
    while session_event_kind(wire_type) is None:
        lift = upcasters.get(wire_type)
        if lift is None:
            raise UnknownType(
                f"event {event.id} (session {event.subject}, seq {event.sequence}) has type {event.type}, "
                "which this version can't read: upgrade this service"
            )
        wire_type, data = lift(data)
    return event if wire_type == event.type else replace(event, type=wire_type, data=data)
