"""The keys of the audit log's checkpoints; see `flotilla.config.signing`."""

from flotilla.config.signing import (
    PublicKeys,
    Signer,
    create_key_pair,
    key_id_of,
    load_public_keys,
    load_signer,
    write_public_key,
)

__all__ = [
    "PublicKeys",
    "Signer",
    "create_key_pair",
    "key_id_of",
    "load_public_keys",
    "load_signer",
    "write_public_key",
]
