"""Pieces of an answer on the live stream of its run."""

from dataclasses import replace

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Undecodable
from flotilla.contracts.live import LiveToken
from flotilla.encryption.cipher import SEALED_PREFIX
from flotilla.encryption.columns import seal, unseal
from flotilla.encryption.keyring import Cipher

_HINT = SEALED_PREFIX.encode()


def sealed_token(cipher: Cipher | None, token: LiveToken, stream: str) -> LiveToken:
    """The piece with its text encrypted for the run's stream; as it is without a cipher."""
    return token if cipher is None else replace(token, text=seal(cipher, to_json(token.text), _place(stream)))


def may_hold_sealed_token(data: bytes) -> bool:
    """Whether the data of a live entry, as JSON, may be a piece that is encrypted."""
    return _HINT in data


def opened_token(cipher: Cipher | None, data: bytes, stream: str) -> bytes:
    """The data of an entry as it was written, or with a mark for its text.

    What is no piece of an answer stays as it is: an agent in another language may write anything.
    """
    if not may_hold_sealed_token(data):
        return data
    try:
        token = from_json(data, LiveToken)
    except Undecodable:
        return data
    return to_json(replace(token, text=str(unseal(cipher, token.text, _place(stream)))))


def _place(stream: str) -> str:
    return f"live/{stream}"
