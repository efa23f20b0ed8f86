"""What a backup says of itself, and who signed it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar

from flotilla.backup.private_files import new_private_file
from flotilla.config.signing import PublicKeys, Signer
from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Invalid, Undecodable
from flotilla.contracts.json_types import JsonObject

FORMAT = "flotilla-backup/1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
_MAX_BYTES = 64 * 1024 * 1024
_DOMAIN = b"flotilla-backup\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of the backup."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTable:
    """The rows of one table, as PostgreSQL's COPY writes them (text format)."""

    name: str
    """With its schema: `flotilla.sessions`."""
    columns: list[str]
    rows: int
    file: StoredFile


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPartition:
    """The records of one partition, in order."""

    partition: int
    start: int
    """The first offset; records before it were deleted from Kafka."""
    records: int
    cut: int
    """Records that were left out: events that the database did not have at the backup's point."""
    file: StoredFile


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTopic:
    """One topic; `name` is the one that it had."""

    kind: str
    """`session-events` or `checkpoints`."""
    name: str
    settings: dict[str, str]
    partitions: list[StoredPartition]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key file that the fleet needs; the reference tells whether a file is the same one."""

    name: str
    sha256: str
    sealed: bool
    """Whether the backup holds it, encrypted with the passphrase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that belongs to one backup. What is not named here is not part of it."""

    backup_id: str
    created_at: str
    point: str
    """When the database's snapshot was taken: the backup holds what was committed by then."""
    migrations: list[str]
    """The schema's version."""
    tables: list[StoredTable]
    sequences: dict[str, int]
    topics: list[StoredTopic]
    cut: StoredFile
    """Names what was left out of the topics."""
    temporal: StoredFile | None
    """Temporal's database, where it is a file; None: open work that Temporal does not know ends with a reason."""
    public_keys: list[StoredFile]
    keys: list[StoredKey]
    sealed_keys: StoredFile | None
    format: str = FORMAT

    def files(self) -> list[StoredFile]:
        """Every file but the manifest and its signature."""
        partitions = [partition.file for topic in self.topics for partition in topic.partitions]
        single = [file for file in (self.cut, self.temporal, self.sealed_keys) if file is not None]
        return [*(table.file for table in self.tables), *partitions, *single, *self.public_keys]

    def find_topic(self, kind: str) -> StoredTopic:
        """The topic of this kind.

        Raises:
            Invalid: the backup has none.
        """
        for topic in self.topics:
            if topic.kind == kind:
                return topic
        raise Invalid(f"the backup has no topic of {kind}")

    def find_table(self, name: str) -> StoredTable | None:
        """A table's rows; None where the backed up database had no such table."""
        return next((table for table in self.tables if table.name == name), None)

    def as_json_object(self) -> JsonObject:
        """What people are shown: which backup, of when, and how much of what."""
        events = self.find_topic("session-events").partitions
        return {
            "backup_id": self.backup_id,
            "point": self.point,
            "created_at": self.created_at,
            "tables": len(self.tables),
            "rows": sum(table.rows for table in self.tables),
            "events": sum(partition.records for partition in events),
            "cut": sum(partition.cut for partition in events),
            "temporal": self.temporal is not None,
            "keys": [key.name for key in self.keys if key.sealed],
            "keys_by_reference": [key.name for key in self.keys if not key.sealed],
            "size_bytes": sum(file.size_bytes for file in self.files()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest that was read, with what identifies these very bytes."""

    manifest: Manifest
    sha256: str
    problems: Sequence[str] = field(default=())
    """Why its signature does not hold; empty when it does."""


class AnyManifest(Protocol):
    """A backup's manifest, or that of an exported tenant."""

    @property
    def format(self) -> str:
        """Tells one kind from the other."""


M = TypeVar("M", bound=AnyManifest)


def write_manifest(folder: Path, manifest: AnyManifest, signer: Signer) -> None:
    """Write the manifest and its signature: last, for a folder without them is no backup."""
    body = to_json(manifest)
    signature = _Signature(key_id=signer.key_id, signature=signer.sign(_DOMAIN + body))
    for name, content in ((SIGNATURE, to_json(signature)), (MANIFEST, body)):
        with new_private_file(folder / name) as file:
            file.write(content)


def read_manifest(folder: Path, keys: PublicKeys) -> SignedManifest:
    """Read the manifest of a backup and check its signature.

    Raises:
        Invalid: there is no backup in the folder, or not of this format.
    """
    return SignedManifest(*read_signed_manifest(folder, keys, Manifest, FORMAT))


def read_signed_manifest(
    folder: Path, keys: PublicKeys, kind: type[M], format_name: str
) -> tuple[M, str, Sequence[str]]:
    """Read a manifest of a `kind`; return it with the SHA-256 of its bytes, and why its signature does not hold.

    Raises:
        Invalid: there is none in the folder, or not of this format.
    """
    try:
        body = _bounded(folder / MANIFEST)
        signature = from_json(_bounded(folder / SIGNATURE), _Signature)
        manifest = from_json(body, kind)
    except OSError as error:
        raise Invalid(f"{folder} holds no complete backup: {error.strerror}: {error.filename}") from error
    except Undecodable as error:
        raise Invalid(f"{folder} holds no backup that this version can read: {error}") from error
    if manifest.format != format_name:
        raise Invalid(f"{folder} has format {manifest.format}, and this version reads {format_name}")
    problem = keys.signature_problem(signature.key_id, _DOMAIN + body, signature.signature)
    problems = () if problem is None else (f"the manifest {problem}",)
    return manifest, sha256(body).hexdigest(), problems


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise Undecodable(f"{path.name} is larger than {_MAX_BYTES} bytes")
    return path.read_bytes()
