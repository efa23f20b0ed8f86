"""Encryption of what is personal, by keys that can be destroyed.

Each session has a data key. It is wrapped by the key of the person whose session it is, that one by the tenant's key,
and that one by a root key, which no store holds. A process looks a session's key up once a minute, on the connection
that it works on:

    stored = await seal_columns(connection, tenant_id, session_id, RUNS, run_id, query=query)
    run = await open_row(connection, tenant_id, RUNS, row)

A value is authenticated with its place (`runs.query/RUN`), so that no ciphertext can be moved. Which columns are
encrypted is in `flotilla.encryption.tables`, which members of events in `flotilla.encryption.events`.
"""

from flotilla.encryption.cipher import ERASED, UNREADABLE, WHY_ERASED, DataKey, Unreadable, is_sealed
from flotilla.encryption.columns import (
    Row,
    SealedTable,
    holds_sealed_columns,
    is_readable,
    is_wrapped,
    opened_columns,
    sealed_columns,
)
from flotilla.encryption.events import SEALED, holds_sealed, opened_data, sealed_data
from flotilla.encryption.issuing import check_proof, opened_key, public_key_of, sealed_key, with_proof
from flotilla.encryption.keyring import Cipher, FoundKey, KeyRefused, Keyring, SessionKeyring, open_keyring
from flotilla.encryption.live import may_hold_sealed_token, opened_token, sealed_token
from flotilla.encryption.providers import open_root_keys
from flotilla.encryption.roots import KeyFile, RootKeys, create_key_file
from flotilla.encryption.tasks import opened_task, sealed_task
from flotilla.encryption.values import opened_value, sealed_value

__all__ = [
    "ERASED",
    "SEALED",
    "UNREADABLE",
    "WHY_ERASED",
    "Cipher",
    "DataKey",
    "FoundKey",
    "KeyFile",
    "KeyRefused",
    "Keyring",
    "RootKeys",
    "Row",
    "SealedTable",
    "SessionKeyring",
    "Unreadable",
    "check_proof",
    "create_key_file",
    "holds_sealed",
    "holds_sealed_columns",
    "is_readable",
    "is_sealed",
    "is_wrapped",
    "may_hold_sealed_token",
    "open_keyring",
    "open_root_keys",
    "opened_columns",
    "opened_data",
    "opened_key",
    "opened_task",
    "opened_token",
    "opened_value",
    "public_key_of",
    "sealed_columns",
    "sealed_data",
    "sealed_key",
    "sealed_task",
    "sealed_token",
    "sealed_value",
    "with_proof",
]
