"""Shows recorded events to those who may read them: with their encrypted data decrypted.

What is stored, chained, signed and exported stays as it was recorded. Who may read a session is decided where its
events are read; its key is no second decision.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from flotilla.contracts.envelope import to_json
from flotilla.encryption import Cipher, holds_sealed, opened_data
from flotilla.postgres import Pool, reading_cipher

_HINT = b'"sealed":"'
_attributes_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_data_of = msgspec.json.Decoder(dict[str, Any]).decode
_text_of = msgspec.json.Decoder(str).decode


async def decrypt_event_bodies(pool: Pool, tenant_id: str, bodies: Sequence[bytes]) -> list[bytes]:
    """The events with encrypted data decrypted, all others byte for byte as they are."""
    sealed = {place: event for place, body in enumerate(bodies) if (event := _sealed_event(body)) is not None}
    sessions = sorted({event.session_id for event in sealed.values()})
    ciphers = {session_id: await reading_cipher(pool, tenant_id, session_id) for session_id in sessions}
    shown = list(bodies)
    for place, event in sealed.items():
        shown[place] = event.opened(ciphers[event.session_id])
    return shown


class _SealedEvent:
    """An event of which only the data is read, and written again: a page has a thousand."""

    def __init__(self, attributes: dict[str, msgspec.Raw], data: dict[str, Any]) -> None:
        self._attributes = attributes
        self._data = data
        self.session_id = _text_of(attributes["subject"])

    def opened(self, cipher: Cipher | None) -> bytes:
        """The event with its data decrypted, all else byte for byte as it is."""
        key, is_erased = (None, False) if cipher is None else (cipher.key, cipher.is_erased)
        event_type, event_id = _text_of(self._attributes["type"]), _text_of(self._attributes["id"])
        data = opened_data(event_type, event_id, self._data, key, is_erased=is_erased)
        return to_json({**self._attributes, "data": msgspec.Raw(to_json(data))})


def _sealed_event(body: bytes) -> _SealedEvent | None:
    """The event, if part of its data is encrypted; others are not even decoded."""
    if _HINT not in body:
        return None
    try:
        attributes = _attributes_of(body)
        data = _data_of(attributes.get("data", msgspec.Raw(b"{}")))
    except msgspec.MsgspecError:
        return None  # nothing that this version wrote
    return _SealedEvent(attributes, data) if holds_sealed(data) else None
