"""Root keys: what wraps the keys of tenants. No store of the fleet holds them."""

import os
import secrets
import stat
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from flotilla.contracts.errors import ConfigurationError
from flotilla.encryption.cipher import KEY_BYTES, DataKey, Unreadable

_OF_OTHERS = stat.S_IWGRP | stat.S_IRWXO


class RootKeys(Protocol):
    """A provider of root keys: a file, or a service that wraps without showing its key (KMS, Vault transit)."""

    @property
    def current_id(self) -> str:
        """The key that wraps now."""
        ...

    async def wrap(self, key: bytes, context: str) -> bytes:
        """Encrypt `key` with the current root key, bound to `context`."""
        ...

    async def unwrap(self, root_id: str, wrapped: bytes, context: str) -> bytes:
        """Decrypt what the root key `root_id` wrapped.

        Raises:
            ConfigurationError: there is no such key, or it did not wrap this.
            RetryLater: the provider does not answer.
        """
        ...


class KeyFile:
    """Root keys in a file: one a line, each 32 bytes in base64. The first wraps, the others are those it replaced.

    The file is read again where a key is asked for that it did not hold, so a rotation needs no restart.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError: the file can't be read, others may read it, or it holds no keys."""
        self._path = path
        self._keys = _read(path)

    def holds(self, root_id: str) -> bool:
        """Whether the file holds this root key, now."""
        if root_id not in self._keys:
            self._keys = _read(self._path)
        return root_id in self._keys

    @property
    def current_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the first key."""
        return next(iter(self._keys))

    async def wrap(self, key: bytes, context: str) -> bytes:
        """As `RootKeys`."""
        return DataKey(self._keys[self.current_id]).seal(key, context)

    async def unwrap(self, root_id: str, wrapped: bytes, context: str) -> bytes:
        """As `RootKeys`."""
        if not self.holds(root_id):
            raise ConfigurationError(f"{self._path} does not hold root key {root_id}, which wraps {context}")
        try:
            return DataKey(self._keys[root_id]).open(wrapped, context)
        except Unreadable as error:
            raise ConfigurationError(f"root key {root_id} did not wrap {context}: its row was changed") from error


class AfterKeyFile:
    """Another provider that took the place of a file: it wraps, and the file opens what it wrapped."""

    def __init__(self, file: KeyFile, provider: RootKeys) -> None:
        self._file = file
        self._provider = provider

    @property
    def current_id(self) -> str:
        """As `RootKeys`."""
        return self._provider.current_id

    async def wrap(self, key: bytes, context: str) -> bytes:
        """As `RootKeys`."""
        return await self._provider.wrap(key, context)

    async def unwrap(self, root_id: str, wrapped: bytes, context: str) -> bytes:
        """As `RootKeys`."""
        has_it = self._file if self._file.holds(root_id) else self._provider
        return await has_it.unwrap(root_id, wrapped, context)


def create_key_file(path: Path) -> str:
    """Put a new root key in front of those that the file holds, and return its id. The file gets mode 0600."""
    former = path.read_bytes() if path.exists() else b""
    key = secrets.token_bytes(KEY_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that an interrupted call leaves no half a file.
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    with fresh.open("wb") as file:
        file.write(b64encode(key) + b"\n" + former)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_folder(path.parent)
    return _id_of(key)


def _sync_folder(folder: Path) -> None:
    """Have the disk know the file's new name: a crash must not take a key away that was used meanwhile."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read(path: Path) -> Mapping[str, bytes]:
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"FLOTILLA_ENCRYPTION_KEY_FILE={path} can't be read: {error}") from error
    if mode & _OF_OTHERS:
        raise ConfigurationError(
            f"FLOTILLA_ENCRYPTION_KEY_FILE={path} has mode {stat.S_IMODE(mode):04o}: others may read it, or its group "
            "may write it. Make it 0600, or 0440 for a group of its own"
        )
    try:
        keys = [b64decode(line, validate=True) for line in lines]
    except (NotBase64, ValueError) as error:
        raise ConfigurationError(f"FLOTILLA_ENCRYPTION_KEY_FILE={path} holds a line that is not base64") from error
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise ConfigurationError(
            f"FLOTILLA_ENCRYPTION_KEY_FILE={path} must hold one key of {KEY_BYTES} bytes a line, in base64: "
            "`python -m flotilla.encryption new-root FILE` makes one"
        )
    return {_id_of(key): key for key in keys}


def _id_of(key: bytes) -> str:
    return sha256(key).hexdigest()[:16]
