"""Creates a backup of a fleet that goes on working.

One point in time, by the order of copying: Temporal first, then PostgreSQL's snapshot, then Kafka. What Temporal does
not know yet is repeated by it, which all activities bear. What Kafka knows already and the snapshot does not is cut.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from flotilla.backup.files import new_compressed_file, stored_as_it_is
from flotilla.backup.manifest import AnyManifest, Manifest, StoredFile, StoredKey, write_manifest
from flotilla.backup.private_files import OWNER_ONLY_FOLDER
from flotilla.backup.sealing import read_passphrase, seal
from flotilla.backup.settings import BackupSettings
from flotilla.backup.tables import (
    Progress,
    connect_without_time_limits,
    copy_tables,
    read_sequences,
    snapshot_transaction,
)
from flotilla.backup.temporal_file import copy_temporal
from flotilla.backup.topics import CUT, TopicCopies
from flotilla.config.signing import Signer, load_signer
from flotilla.contracts.errors import ConfigurationError, Conflict, Refused
from flotilla.contracts.ids import new_id, utc_now
from flotilla.kafka.topics import log_topic_specs
from flotilla.kafka.whole_topics import PartitionExtent, TopicReader

PARTIAL = ".partial"
KEYS = "keys/sealed"
_DISK_ERRORS = frozenset(
    {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.ENOTDIR, errno.EROFS}
)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The key files as they were read."""

    content: dict[str, bytes]
    passphrase: bytes | None

    @classmethod
    def read(cls, settings: BackupSettings) -> "_Keys":
        file = settings.backup_passphrase_file
        return cls(_read_all(settings.backup_keys), read_passphrase(file) if file else None)

    def references(self) -> list[StoredKey]:
        sealed = self.passphrase is not None
        return [
            StoredKey(name=name, sha256=sha256(content).hexdigest(), sealed=sealed)
            for name, content in self.content.items()
        ]

    def seal(self, folder: Path, backup_id: str) -> StoredFile | None:
        if self.passphrase is None or not self.content:
            return None
        return stored_as_it_is(folder, KEYS, seal(self.content, self.passphrase, backup_id))


async def create_backup(settings: BackupSettings, to: Path, progress: Progress) -> Manifest:
    """Write a backup into a new folder; it has its name only once it is whole.

    Raises:
        Refused: the folder exists.
        Conflict: another process creates a backup there.
        ConfigurationError: something has to be set differently.
        RetryLater: a server does not answer.
    """
    signer, keys = load_signer(settings.backup_signing_key_file), _Keys.read(settings)
    with new_backup_folder(to) as folder:
        manifest = await _create(settings, folder, keys, progress)
        finish_backup(folder, manifest, signer, to)
    return manifest


@contextmanager
def new_backup_folder(to: Path) -> Iterator[Path]:
    """Where a backup grows; `finish_backup` gives it its name.

    Raises:
        Refused: the folder exists.
        Conflict: another process creates a backup there.
        ConfigurationError: it can't be written.
    """
    try:
        with _partial_folder(to) as folder:
            yield folder
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise ConfigurationError(
            f"{to} can't be written: {error.strerror}. What was written of it was removed. Name a folder on a disk "
            "with enough space"
        ) from error


async def _create(settings: BackupSettings, folder: Path, keys: _Keys, progress: Progress) -> Manifest:
    backup_id = new_id()
    temporal = copy_temporal(settings.backup_temporal_file, folder) if settings.backup_temporal_file else None
    async with connect_without_time_limits(settings) as connection, snapshot_transaction(connection) as taken:
        ends = await _topic_ends(settings)  # at once: the longer this waits, the more there is to cut
        tables = await copy_tables(taken, folder, progress)
        with new_compressed_file(folder, CUT) as cut:
            topics = await TopicCopies(settings, connection, folder, progress).copy(ends, cut)
        sequences = await read_sequences(connection)
    return Manifest(
        backup_id=backup_id,
        created_at=utc_now().isoformat(),
        point=taken.point,
        migrations=taken.migrations,
        tables=tables,
        sequences=sequences,
        topics=topics,
        cut=cut.manifest_entry,
        temporal=temporal,
        public_keys=[
            stored_as_it_is(folder, f"keys/{name}", content)
            for name, content in _read_all(settings.backup_public_keys).items()
        ],
        keys=keys.references(),
        sealed_keys=keys.seal(folder, backup_id),
    )


async def _topic_ends(settings: BackupSettings) -> dict[str, list[PartitionExtent]]:
    async with TopicReader(settings) as reader:
        return {
            topic.name: await reader.load_partition_extents(topic.name, range(topic.partitions))
            for topic in log_topic_specs(settings)
        }


def _read_all(files: Sequence[Path]) -> dict[str, bytes]:
    """Contents by name.

    Raises:
        ConfigurationError: one can't be read, or two have one name.
    """
    found: dict[str, bytes] = {}
    for file in files:
        if file.name in found:
            raise ConfigurationError(f"two key files are called {file.name}: give them names of their own")
        try:
            found[file.name] = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"key file {file} can't be read: {error.strerror}") from error
    return found


@contextmanager
def _partial_folder(to: Path) -> Iterator[Path]:
    """Where the backup grows. What a killed process left there is removed: a snapshot can't be continued."""
    folder = to.with_name(to.name + PARTIAL)
    lock = to.with_name(f".{to.name}.lock")
    to.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another process creates a backup in {to}") from None
        try:
            if to.exists():
                raise Refused(f"{to} exists: name a new folder")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=OWNER_ONLY_FOLDER)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def finish_backup(folder: Path, manifest: AnyManifest, signer: Signer, to: Path) -> None:
    """Sign what was written, and give the folder its name."""
    write_manifest(folder, manifest, signer)
    for directory in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(directory)
    folder.rename(to)
    _sync(to.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
