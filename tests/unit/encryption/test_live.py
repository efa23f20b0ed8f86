"""Pieces of answers on live streams."""

import os

import pytest

from flotilla.contracts.envelope import to_json
from flotilla.contracts.live import LiveToken
from flotilla.encryption import DataKey, opened_token, sealed_token
from flotilla.encryption.keyring import Cipher

CIPHER = Cipher("k1", DataKey(os.urandom(32), "default", "s1"))
CLEAR = LiveToken(text="canary", task_id="t1", attempt=1)


def test_a_piece_is_read_back_from_its_own_stream_only() -> None:
    sealed = to_json(sealed_token(CIPHER, CLEAR, "live:r1"))
    assert b"canary" not in sealed
    assert opened_token(CIPHER, sealed, "live:r1") == to_json(CLEAR)
    assert b"[unreadable]" in opened_token(CIPHER, sealed, "live:r2")
    assert b"[unreadable]" in opened_token(None, sealed, "live:r1")


@pytest.mark.parametrize(
    "data", [to_json(CLEAR), b"{}", b"flotilla:sealed:1:", b'{"text": "flotilla:sealed:1:", "n": \xff']
)
def test_what_is_no_encrypted_piece_stays_as_it_is(data: bytes) -> None:
    assert opened_token(CIPHER, data, "live:r1") == data
