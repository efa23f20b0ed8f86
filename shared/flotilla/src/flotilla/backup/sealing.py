"""Private keys in a backup: encrypted with a passphrase (scrypt, AES-256-GCM), never in clear."""

import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import ConfigurationError, Invalid, Undecodable

_MAGIC = b"flotilla-keys/1\n"
_SALT_BYTES, _NONCE_BYTES, _KEY_BYTES = 16, 12, 32
_COST, _BLOCK, _PARALLEL = 2**17, 8, 1
"""128 MB and about half a second for each guess (RFC 7914)."""
MIN_PASSPHRASE = 16


def read_passphrase(file: Path) -> bytes:
    """The first line of a file.

    Raises:
        ConfigurationError: it can't be read, others can read it, or the passphrase is short.
    """
    try:
        text = file.read_bytes().split(b"\n", 1)[0].strip()
        status = file.stat()
    except OSError as error:
        raise ConfigurationError(f"passphrase file {file} can't be read: {error.strerror}") from error
    # As PostgreSQL and libpq have it: a file of root's may be read by its group, as a mounted Secret is.
    if status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o027):
        raise ConfigurationError(f"passphrase file {file} can be read by others: chmod 600 {file}")
    if len(text) < MIN_PASSPHRASE:
        raise ConfigurationError(f"the passphrase in {file} has {len(text)} bytes: use {MIN_PASSPHRASE} or more")
    return text


def seal(keys: Mapping[str, bytes], passphrase: bytes, backup_id: str) -> bytes:
    """Key files by name, encrypted; bound to the backup, so that they can't be moved into another one."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, to_json(dict(keys)), _MAGIC + backup_id.encode())
    return _MAGIC + salt + nonce + sealed


def unseal_key_files(sealed: bytes, passphrase: bytes, backup_id: str) -> dict[str, bytes]:
    """The key files.

    Raises:
        Invalid: another passphrase, another backup, or changed bytes.
    """
    salt_end = len(_MAGIC) + _SALT_BYTES
    body_start = salt_end + _NONCE_BYTES
    salt, nonce = sealed[len(_MAGIC) : salt_end], sealed[salt_end:body_start]
    if not sealed.startswith(_MAGIC) or len(nonce) != _NONCE_BYTES:
        raise Invalid("the backup's keys have a format that this version can't read")
    try:
        opened = AESGCM(_derive(passphrase, salt)).decrypt(nonce, sealed[body_start:], _MAGIC + backup_id.encode())
        return from_json(opened, dict[str, bytes])
    except (InvalidTag, Undecodable) as error:
        raise Invalid("the passphrase is not the one that the backup's keys were encrypted with") from error


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_KEY_BYTES, n=_COST, r=_BLOCK, p=_PARALLEL).derive(passphrase)
