"""Encryption of what is personal, by keys that can be destroyed.

Each session has a data key. It is wrapped by the key of the person whose session it is, that one by the tenant's key,
and that one by a root key, which no store holds. A process looks a session's key up once a minute, on the connection
that it works on:

    cipher = await writing_cipher(connection, tenant_id, session_id)
    stored = sealed_value(cipher, value, f"runs.result/{run_id}")

    ciphers = await reading_ciphers(connection, tenant_id, [session_id])
    value = opened_value(ciphers.get(session_id), stored, f"runs.result/{run_id}")

The second argument is the place of the value. It is authenticated with it, so that no ciphertext can be moved.
"""

from flotilla.encryption.cipher import ERASED, UNREADABLE, DataKey, Unreadable, is_sealed
from flotilla.encryption.events import holds_sealed, opened_event, sealed_data
from flotilla.encryption.keyring import Cipher, Keyring, open_keyring
from flotilla.encryption.roots import KeyFile, RootKeys, create_key_file
from flotilla.encryption.values import opened_value, sealed_value

__all__ = [
    "ERASED",
    "UNREADABLE",
    "Cipher",
    "DataKey",
    "KeyFile",
    "Keyring",
    "RootKeys",
    "Unreadable",
    "create_key_file",
    "holds_sealed",
    "is_sealed",
    "open_keyring",
    "opened_event",
    "opened_value",
    "sealed_data",
    "sealed_value",
]
