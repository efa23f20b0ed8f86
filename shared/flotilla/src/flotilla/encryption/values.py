"""Values of columns and messages that are text or JSON: encrypted as one string, and read back.

What was stored before encryption was on is no such string, and is read as it is.
"""

from typing import Any

import msgspec

from flotilla.contracts.envelope import to_json
from flotilla.encryption.cipher import ERASED, UNREADABLE, Unreadable, is_sealed
from flotilla.encryption.keyring import Cipher


def sealed_value(cipher: Cipher | None, value: object, place: str) -> Any:
    """Encrypt a JSON value for its place, as text; without a cipher it stays as it is, and None is always None.

    A session whose key was destroyed keeps nothing: `[erased]` is stored.
    """
    if cipher is None or value is None:
        return value
    return ERASED if cipher.key is None else cipher.key.seal_text(to_json(value), place)


def opened_value(cipher: Cipher | None, stored: Any, place: str) -> Any:
    """The value that `sealed_value` encrypted for this place, `[erased]` where its key was destroyed, or `[unreadable]`
    where it was changed, moved, or this process has no key."""
    if not is_sealed(stored):
        return stored
    if cipher is None or cipher.key is None:
        return UNREADABLE if cipher is None else ERASED
    try:
        return msgspec.json.decode(cipher.key.open_text(stored, place))
    except (Unreadable, msgspec.MsgspecError):
        return UNREADABLE
