"""API keys and browser tokens: how they look, and what is stored of them."""

import hashlib
import secrets

KEY_PREFIX = "flo_"
"""For secret scanners to look for, and to tell a key from a token."""
TOKEN_PREFIX = "flot_"  # noqa: S105 - the beginning of every one
"""The same of a browser token."""

_HINT_CHARACTERS = len(KEY_PREFIX) + 6


def new_api_key() -> str:
    """A new key: 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_browser_token() -> str:
    """A new token for a web page: 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def api_key_hash(key: str) -> bytes:
    """What is stored of a key. Its bits are random, so one round of SHA-256 can't be guessed back."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def api_key_hint(key: str) -> str | None:
    """Return how a key begins, to tell it from others: 36 of its 256 random bits. None for a key that `new_api_key`
    did not make, which may hold less chance."""
    made_here = key.startswith(KEY_PREFIX) and len(key) == len(new_api_key())
    return key[:_HINT_CHARACTERS] if made_here else None
