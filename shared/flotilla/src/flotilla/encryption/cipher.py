"""AES-256-GCM (NIST SP 800-38D), with what a ciphertext is bound to: the key's tenant and session, and its place."""

import os
from base64 import b64encode

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
ERASED = "[erased]"
"""What readers get in place of text whose key was destroyed."""
WHY_ERASED = "the data of its session was erased"
"""Why work ended whose session's key was destroyed. It is kept as it is."""
UNREADABLE = "[unreadable]"
"""The same for text that was changed or moved, or whose key this process can't reach."""
_NONCE_BYTES = 12
_from_base64 = msgspec.convert
"""Of the ways to decode base64 the quickest by far: of what an event takes to be read, that counts."""
SEALED_PREFIX = "flotilla:sealed:1:"
"""How encrypted text begins."""


class Unreadable(Exception):
    """A ciphertext that this key did not make for this place, or that was changed since."""


class DataKey:
    """One key of 256 bits, for values that are bound to `context`."""

    def __init__(self, key: bytes, *context: str) -> None:
        self._key = key
        self._cipher = AESGCM(key)
        self._context = bound_to(*context)

    def seal(self, value: bytes, place: str) -> bytes:
        """Encrypt `value` for its place. Each call draws a nonce of 96 random bits."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, self._context + bound_to(place))

    def open(self, sealed: bytes, place: str) -> bytes:
        """Decrypt what `seal` made for this place.

        Raises:
            Unreadable: it did not.
        """
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, ciphertext, self._context + bound_to(place))
        except (InvalidTag, ValueError) as error:
            raise Unreadable(f"what is stored at {place} can't be decrypted: it was changed or moved") from error

    def exported(self) -> bytes:
        """The key itself, to be encrypted for a process that may have it."""
        return self._key

    def seal_text(self, value: bytes, place: str) -> str:
        """`seal`, as text that says what it is."""
        return SEALED_PREFIX + b64encode(self.seal(value, place)).decode()

    def open_text(self, text: str, place: str) -> bytes:
        """Decrypt what `seal_text` made.

        Raises:
            Unreadable: as `open`.
        """
        try:
            sealed = _from_base64(text.removeprefix(SEALED_PREFIX), bytes)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise Unreadable(f"what is stored at {place} is no ciphertext") from error
        return self.open(sealed, place)


def is_sealed(value: object) -> bool:
    """Whether `value` is what `seal_text` makes."""
    return isinstance(value, str) and value.startswith(SEALED_PREFIX)


def bound_to(*names: str) -> bytes:
    """Names as bytes of which no two lists have the same: each after its length."""
    parts = [name.encode(errors="surrogatepass") for name in names]
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])
