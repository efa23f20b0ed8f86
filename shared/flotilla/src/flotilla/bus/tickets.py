"""Tickets: only the worker opens tasks, and each carries the worker's signature over its every byte.

The entry of a task has two fields: `event`, the CloudEvent as JSON, and `ticket`, `<key id>.<signature>`: Ed25519 over
exactly the bytes of `event`, in base64url without padding. Nothing has to be put into a canonical form, so a program in
any language verifies it with two lines. An entry that is published again carries the same bytes.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from flotilla.config.signing import PublicKeys, Signer
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.names import EVENT_FIELD, TICKET_FIELD

_EVENT_FIELD_BYTES = EVENT_FIELD.encode()
_TICKET_FIELD_BYTES = TICKET_FIELD.encode()
_MAX_TICKET_BYTES = 256


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """An encoded event with its ticket, ready to be published as it is."""

    body: bytes
    ticket: str


def sign_event(event: AgentEvent, signer: Signer) -> SignedEvent:
    """Encode `event` once and sign the bytes."""
    body = encode_event(event)
    signature = base64.urlsafe_b64encode(signer.sign(body)).rstrip(b"=").decode()
    return SignedEvent(body, f"{signer.key_id}.{signature}")


def ticket_problem(fields: Mapping[bytes, bytes] | None, keys: PublicKeys) -> str | None:
    """Return why the entry's ticket does not hold; None when it does."""
    ticket = (fields or {}).get(_TICKET_FIELD_BYTES)
    if ticket is None:
        return "it has no ticket"
    if len(ticket) > _MAX_TICKET_BYTES:
        return f"its ticket has {len(ticket)} bytes"
    key_id, _, encoded = ticket.partition(b".")
    try:
        signature = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return "its ticket is not base64url"
    problem = keys.signature_problem(
        key_id.decode(errors="replace"), (fields or {}).get(_EVENT_FIELD_BYTES, b""), signature
    )
    return None if problem is None else f"its ticket {problem}"
