"""Where archives of sessions go: a folder, or a bucket of an S3-compatible store."""

import os
import shutil
from collections.abc import Iterable
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Protocol

from flotilla_cli.errors import CliError, Misuse

S3 = "s3://"
_S3_HELP = (
    "pip install 'flotilla-fleet-cli[s3]'; AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the like say which store it is"
)


class ArchiveStore(Protocol):
    """Files by name, which are never changed."""

    def store(self, file: Path, name: str) -> str:
        """Store the file under that name, durably, and return where it is. Repeating it changes nothing.

        Raises:
            CliError: it can't be written, or what is read back is not what was written.
        """
        ...


def open_archive_store(target: str) -> ArchiveStore:
    """Return the store at `target`: `s3://BUCKET/PREFIX`, or a folder.

    Raises:
        Misuse: there is no such folder, or no client for S3.
    """
    if target.startswith(S3):
        return S3Store(target)
    folder = Path(target).resolve()
    if not folder.is_dir():
        raise Misuse(f"{folder} is not a folder", "create it, or name s3://BUCKET/PREFIX")
    return FolderStore(folder)


def fetch_archive(source: str, to: Path) -> Path:
    """Return the archive at `source` as a file: the one that it is, or a copy of an S3 object at `to`.

    Raises:
        CliError, Misuse: it can't be read.
    """
    if not source.startswith(S3):
        return Path(source)
    prefix, _, name = source.rpartition("/")
    if not name or not prefix.startswith(S3):
        raise Misuse(f"{source} names no object", "s3://BUCKET/PREFIX/FILE, as flotilla audit archives shows it")
    S3Store(prefix).fetch(name, to)
    return to


class FolderStore:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def store(self, file: Path, name: str) -> str:
        """As `ArchiveStore.store`."""
        target = self._folder / name
        unfinished = target.with_name(f"{name}.part")
        try:
            with file.open("rb") as source, unfinished.open("wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            unfinished.replace(target)
            _sync_folder(self._folder)
            _check_same(file, sha256_of(target), str(target))
        except OSError as error:
            raise CliError(f"{target} cannot be written: {error.strerror or error}") from error
        return str(target)


class S3Store:
    """Objects under a prefix of a bucket. Which store, and whose credentials, the environment says (`AWS_...`)."""

    def __init__(self, url: str) -> None:
        try:
            from obstore.store import S3Store as Client
        except ImportError as error:
            raise Misuse("no client for S3 is installed", _S3_HELP) from error
        self._url = url.rstrip("/")
        bucket, _, prefix = self._url.removeprefix(S3).partition("/")
        self._client = Client(bucket, prefix=prefix or None)

    def store(self, file: Path, name: str) -> str:
        """As `ArchiveStore.store`."""
        from obstore.exceptions import BaseError

        place = f"{self._url}/{name}"
        try:
            self._client.put(name, file)
            digest = _digest_of(self._client.get(name).stream())
        except (BaseError, OSError) as error:
            raise CliError(f"{place} cannot be written: {error}", _S3_HELP) from error
        _check_same(file, digest, place)
        return place

    def fetch(self, name: str, to: Path) -> None:
        """Copy the object into a file.

        Raises:
            CliError: it can't be read.
        """
        from obstore.exceptions import BaseError

        try:
            with to.open("wb") as copy:
                copy.writelines(bytes(chunk) for chunk in self._client.get(name).stream())
        except (BaseError, OSError) as error:
            raise CliError(f"{self._url}/{name} cannot be read: {error}", _S3_HELP) from error


def sha256_of(file: Path) -> bytes:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").digest()


def _digest_of(chunks: "Iterable[Any]") -> bytes:
    digest = sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _check_same(file: Path, stored: bytes, place: str) -> None:
    if stored != sha256_of(file):
        raise CliError(f"{place} does not hold what was written to it: nothing was archived")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
