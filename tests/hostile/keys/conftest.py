"""Fixtures of the attacks on keys."""

from tests.support.encryption import key_file, keyring, sealing

__all__ = ["key_file", "keyring", "sealing"]
