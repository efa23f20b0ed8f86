"""Shows recorded events to those who may read them: with their encrypted data decrypted.

What is stored, chained, signed and exported stays as it was recorded. Who may read a session is decided where its
events are read; its key is no second decision.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from flotilla.contracts.envelope import AgentEvent, decode_event, to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.encryption import Cipher, holds_sealed, opened_data
from flotilla.postgres import Pool, reading_cipher

_SEALED_MARK = b'"sealed":"'
_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_data = msgspec.json.Decoder(dict[str, Any]).decode
_decode_text = msgspec.json.Decoder(str).decode


async def decrypt_event_bodies(pool: Pool, tenant_id: str, bodies: Sequence[bytes]) -> list[bytes]:
    """The events with encrypted data decrypted, all others byte for byte as they are."""
    sealed = {place: event for place, body in enumerate(bodies) if (event := _find_sealed_event(body)) is not None}
    ciphers = await _ciphers(pool, tenant_id, {event.session_id for event in sealed.values()})
    shown = list(bodies)
    for place, event in sealed.items():
        shown[place] = event.with_decrypted_data(ciphers[event.session_id])
    return shown


async def decode_decrypted(pool: Pool, tenant_id: str, bodies: Iterable[bytes]) -> list[AgentEvent]:
    """The events decoded, with encrypted data decrypted: each is read once, and written by nobody.

    Raises:
        Undecodable: one is no CloudEvent.
    """
    events = [decode_event(body) for body in bodies]
    sealed = [event for event in events if holds_sealed(event.data)]
    ciphers = await _ciphers(pool, tenant_id, {event.subject for event in sealed})
    for event in sealed:
        data = _opened(ciphers[event.subject], event.type, event.id, event.data)
        if data is event.data:
            continue  # of a type that this version does not know
        # In place: it was decoded above, for nobody else, and a copy takes as long as the decryption.
        holder = cast("dict[str, Any]", event.data)
        holder.clear()
        holder.update(data)
    return events


async def _ciphers(pool: Pool, tenant_id: str, session_ids: Iterable[str]) -> Mapping[str, Cipher | None]:
    return {session_id: await reading_cipher(pool, tenant_id, session_id) for session_id in sorted(session_ids)}


def _opened(cipher: Cipher | None, event_type: str, event_id: str, data: JsonObject) -> JsonObject:
    key, is_erased = (None, False) if cipher is None else (cipher.key, cipher.is_erased)
    return opened_data(event_type, event_id, data, key, is_erased=is_erased)


class _SealedEvent:
    """An event of which only the data is read, and written again: a page has a thousand."""

    def __init__(self, attributes: dict[str, msgspec.Raw], data: dict[str, Any]) -> None:
        self._attributes = attributes
        self._data = data
        self.session_id = _decode_text(attributes["subject"])

    def with_decrypted_data(self, cipher: Cipher | None) -> bytes:
        """The event with its data decrypted, all else byte for byte as it is."""
        event_type, event_id = _decode_text(self._attributes["type"]), _decode_text(self._attributes["id"])
        data = _opened(cipher, event_type, event_id, self._data)
        return to_json({**self._attributes, "data": msgspec.Raw(to_json(data))})


def _find_sealed_event(body: bytes) -> _SealedEvent | None:
    """The event, if part of its data is encrypted; others are not even decoded."""
    if _SEALED_MARK not in body:
        return None
    try:
        attributes = _decode_attributes(body)
        data = _decode_data(attributes.get("data", msgspec.Raw(b"{}")))
    except msgspec.MsgspecError:
        return None  # nothing that this version wrote
    return _SealedEvent(attributes, data) if holds_sealed(data) else None
