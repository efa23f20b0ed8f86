"""Shows recorded events to those who may read them: with their encrypted data decrypted.

What is stored, chained, signed and exported stays as it was recorded. Who may read a session is decided where its
events are read; its key is no second decision.
"""

from collections.abc import Sequence

from flotilla.contracts.envelope import AgentEvent, decode_event, encode_event
from flotilla.contracts.json_types import JsonObject
from flotilla.encryption import Cipher, holds_sealed, opened_data
from flotilla.postgres import Pool, reading_cipher

_HINT = b'"sealed":"'


async def decrypt_event_bodies(pool: Pool, tenant_id: str, bodies: Sequence[bytes]) -> list[bytes]:
    """The events with encrypted data decrypted, all others byte for byte as they are."""
    sealed = {place: event for place, body in enumerate(bodies) if (event := _sealed_event(body)) is not None}
    names = sorted({event.subject for event in sealed.values()})
    ciphers = {name: await reading_cipher(pool, tenant_id, name) for name in names}
    shown = list(bodies)
    for place, event in sealed.items():
        shown[place] = encode_event(event, _opened(event, ciphers[event.subject]))
    return shown


def _opened(event: AgentEvent, cipher: Cipher | None) -> JsonObject:
    if cipher is None:
        return opened_data(event, None, is_erased=False)
    return opened_data(event, cipher.key, is_erased=cipher.is_erased)


def _sealed_event(body: bytes) -> AgentEvent | None:
    """The event, if part of its data is encrypted; others are not even decoded."""
    if _HINT not in body:
        return None
    event = decode_event(body)
    return event if holds_sealed(event.data) else None
