"""Shows recorded events to those who may read them: with their encrypted data decrypted.

What is stored, chained, signed and exported stays as it was recorded. Who may read a session is decided where its
events are read; its key is no second decision.
"""

from collections.abc import Iterable, Sequence

from flotilla.contracts.envelope import AgentEvent, decode_event, encode_event
from flotilla.encryption import Cipher, holds_sealed, opened_event
from flotilla.postgres import Pool, reading_ciphers, tenant_transaction

_HINT = b'"sealed":"'


async def decrypt_event_bodies(pool: Pool, tenant_id: str, bodies: Sequence[bytes]) -> list[bytes]:
    """The events with encrypted data decrypted, all others byte for byte as they are."""
    sealed = {place: event for place, body in enumerate(bodies) if (event := _sealed_event(body)) is not None}
    if not sealed:
        return list(bodies)
    opened = await decrypt_events(pool, tenant_id, sealed.values())
    shown = dict(zip(sealed, opened, strict=True))
    return [encode_event(shown[place]) if place in shown else body for place, body in enumerate(bodies)]


async def decrypt_events(pool: Pool, tenant_id: str, events: Iterable[AgentEvent]) -> list[AgentEvent]:
    """The events, in their order, with encrypted data decrypted."""
    sealed = list(events)
    names = sorted({event.subject for event in sealed})
    async with tenant_transaction(pool, tenant_id) as connection:
        ciphers = await reading_ciphers(connection, tenant_id, names)
    return [_opened(event, ciphers.get(event.subject)) for event in sealed]


def _opened(event: AgentEvent, cipher: Cipher | None) -> AgentEvent:
    if cipher is None:
        return opened_event(event, None, is_erased=False)
    return opened_event(event, cipher.key, is_erased=cipher.is_erased)


def _sealed_event(body: bytes) -> AgentEvent | None:
    """The event, if part of its data is encrypted; others are not even decoded."""
    if _HINT not in body:
        return None
    event = decode_event(body)
    return event if holds_sealed(event.data) else None
