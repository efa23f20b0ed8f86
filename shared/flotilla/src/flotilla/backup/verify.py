"""Verifies a backup by itself: no server is asked.

Hashes and the signature say that it is what was written. Chains, signed checkpoints and Kafka's records say that what
was written agrees with itself: a fleet that is made from it verifies.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from flotilla.audit.chain import ChainChecker, ChainedEvent, ExpectedChain
from flotilla.audit.checkpoints import BEFORE_FIRST_CHECKPOINT, SeenCheckpoint, find_statement_problems
from flotilla.audit.proof import (
    NO_PREVIOUS_CHECKPOINT,
    HistoryRewind,
    Statement,
    session_head_leaf,
    split_concatenated_leaves,
)
from flotilla.backup.copy_text import bytes_of, rows, text_of
from flotilla.backup.files import problem_of, read_backup_records, read_compressed_lines
from flotilla.backup.manifest import Manifest, SignedManifest, StoredTable, read_manifest
from flotilla.backup.tables import Progress
from flotilla.config.signing import PublicKeys
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject

MAX_PROBLEMS = 100
_DIGEST_BYTES = 16
_EVENTS, _HEADS = "audit.session_events", "audit.session_heads"
_CHECKPOINTS, _ANCHORS, _REWINDS = "audit.checkpoints", "audit.checkpoint_heads", "audit.rewinds"
_EVENT_COLUMNS = ("tenant_id", "session_id", "seq", "hash", "body", "kafka_partition", "kafka_offset")
_Session = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Head:
    """What a session's head row says."""

    first_seq: int
    parent: str | None
    seq: int
    archived: tuple[int, bytes] | None = None
    """The newest event that is in an archive, and its hash."""


@dataclass(slots=True)
class BackupVerdict:
    """What was found."""

    manifest: Manifest
    manifest_sha256: str
    sessions: int = 0
    events: int = 0
    checkpoints: int = 0
    signatures_checked: bool = False
    """Whether checkpoints were checked against public keys."""
    problems: list[str] = field(default_factory=list)
    """At most `MAX_PROBLEMS`."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_json_object(self) -> JsonObject:
        """For programs."""
        return {
            "ok": self.ok,
            **self.manifest.as_json_object(),
            "sessions": self.sessions,
            "chained_events": self.events,
            "checkpoints": self.checkpoints,
            "signatures_checked": self.signatures_checked,
            "problems": list(self.problems),
        }

    def note(self, *problems: str) -> None:
        """Add problems."""
        self.problems += problems[: MAX_PROBLEMS - len(self.problems)]


def verify_backup(folder: Path, keys: PublicKeys, audit_keys: PublicKeys | None, progress: Progress) -> BackupVerdict:
    """Check the whole backup. `keys` are of those who may sign backups, `audit_keys` of those who sign checkpoints.

    Raises:
        Invalid: there is no backup, or its files hold something that can't be read.
    """
    signed = read_manifest(folder, keys)
    verdict = check_files(folder, signed, progress)
    if not verdict.ok:
        return verdict  # what is in other files than those that were signed proves nothing
    reading = _Contents(folder, signed.manifest, verdict, audit_keys, progress)
    try:
        reading.check()
    except ValueError as error:
        raise Invalid(f"{folder} can't be read: {error}") from error
    return verdict


def check_files(folder: Path, signed: SignedManifest, progress: Progress) -> BackupVerdict:
    """Check the signature, and each file's hash."""
    verdict = BackupVerdict(signed.manifest, signed.sha256)
    verdict.note(*signed.problems)
    files = signed.manifest.files()
    for number, file in enumerate(files):
        progress("hashes", number, len(files))
        if problem := problem_of(folder, file):
            verdict.note(problem)
    return verdict


class _Contents:
    """Goes through the projection's events once, and through Kafka's records once."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        verdict: BackupVerdict,
        audit_keys: PublicKeys | None,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._verdict = verdict
        self._audit_keys = audit_keys
        self._progress = progress
        self._leaves: dict[tuple[int, int], list[bytes]] = {}
        self._in_kafka: dict[int, bytearray] = {}
        """The first half of each record's SHA-256, one after the other, by partition."""
        self._starts: dict[int, int] = {}

    def check(self) -> None:
        self._count_rows()
        self._read_kafka()
        self._check_checkpoints()
        self._check_chains()

    def _count_rows(self) -> None:
        for number, table in enumerate(self._manifest.tables):
            self._progress(f"table {table.name}", number, len(self._manifest.tables))
            count = sum(1 for _ in read_compressed_lines(self._folder, table.file))
            if count != table.rows:
                self._verdict.note(f"{table.name} has {count} rows, the manifest says {table.rows}")

    def _read_kafka(self) -> None:
        for stored in self._manifest.find_topic("session-events").partitions:
            self._progress(f"partition {stored.partition}", stored.partition, 0)
            digests = bytearray()
            for record in read_backup_records(self._folder, stored.file):
                digests += _digest(record.value or b"")
            self._in_kafka[stored.partition] = digests
            self._starts[stored.partition] = stored.start
            if len(digests) != stored.records * _DIGEST_BYTES:
                count = len(digests) // _DIGEST_BYTES
                self._verdict.note(f"{stored.file.name} has {count} records, the manifest says {stored.records}")

    def _check_checkpoints(self) -> None:
        self._verdict.signatures_checked = self._audit_keys is not None
        columns = ("kafka_partition", "number", "statement", "signature", "key_id", "leaves")
        last, previous, partition = BEFORE_FIRST_CHECKPOINT, NO_PREVIOUS_CHECKPOINT, -1
        for row in self._rows(_CHECKPOINTS, *columns):
            record = CheckpointRecord(
                partition=int(text_of(row[0])),
                number=int(text_of(row[1])),
                statement=bytes_of(row[2]),
                signature=bytes_of(row[3]),
                key_id=text_of(row[4]),
                leaves=bytes_of(row[5]),
            )
            if record.partition != partition:
                last, previous, partition = BEFORE_FIRST_CHECKPOINT, NO_PREVIOUS_CHECKPOINT, record.partition
            found = list(find_statement_problems(record, last, previous, self._audit_keys))
            self._verdict.note(*(f"checkpoint {record.number} of partition {partition}: {text}" for text in found))
            self._verdict.checkpoints += 1
            self._leaves[partition, record.number] = split_concatenated_leaves(record.leaves)
            previous = sha256(record.statement).hexdigest()
            last = SeenCheckpoint(record.number, _epoch_of(record.statement, last.epoch))

    def _check_chains(self) -> None:
        heads = {(text_of(row[0]), text_of(row[1])): _head(row) for row in self._rows(_HEADS, *self._head_columns())}
        anchors = _Anchors(self._rows(_ANCHORS, *_ANCHOR_COLUMNS), self._leaves, self._rewinds(), self._verdict)
        current, check = ("", ""), None
        for row in self._rows(_EVENTS, *_EVENT_COLUMNS):
            session, seq, body = (text_of(row[0]), text_of(row[1])), int(text_of(row[2])), bytes_of(row[4])
            if session != current or check is None:
                self._end(current, check, heads)
                current, check = session, _begin(session, heads.get(session), anchors.of(session))
            check.check_event(ChainedEvent(seq, bytes_of(row[3]), body))
            self._compare_with_kafka(session, seq, body, int(text_of(row[5])), int(text_of(row[6])))
        self._end(current, check, heads)
        for session in [session for session, head in heads.items() if head.archived is not None]:
            self._end(session, _begin(session, heads[session], anchors.of(session)), heads)
        self._verdict.note(*(f"session {session}: no event of it is there" for _, session in {*heads, *anchors.left}))

    def _end(self, session: _Session, check: ChainChecker | None, heads: dict[_Session, _Head]) -> None:
        if check is None:
            return
        check.check_end_of_chain()
        self._verdict.sessions += 1
        self._verdict.events += check.events
        head = heads.pop(session, None)
        if check.problem is not None:
            problem = check.problem
            self._verdict.note(f"session {session[1]} event {problem.seq}: {problem.kind}: {problem.detail}")
        elif head is None or head.seq != check.last_seq:
            recorded = "no row" if head is None else f"{head.seq}"
            self._verdict.note(f"session {session[1]}: its events end at {check.last_seq}, its head is {recorded}")

    def _compare_with_kafka(self, session: _Session, seq: int, body: bytes, partition: int, offset: int) -> None:
        start = (offset - self._starts.get(partition, 0)) * _DIGEST_BYTES
        if start < 0:
            return  # Kafka had deleted it before
        if self._in_kafka.get(partition, b"")[start : start + _DIGEST_BYTES] != _digest(body):
            self._verdict.note(
                f"session {session[1]} event {seq}: Kafka's record at offset {offset} of partition {partition} is "
                "another one"
            )

    def _rewinds(self) -> dict[_Session, list[tuple[int, int, int]]]:
        """From which event on each session has another history, and where that was signed."""
        found: dict[_Session, list[tuple[int, int, int]]] = {}
        for row in self._rows(_REWINDS, *_REWIND_COLUMNS):
            rewind = HistoryRewind(
                tenant_id=text_of(row[0]),
                session_id=text_of(row[1]),
                from_seq=int(text_of(row[2])),
                base=bytes_of(row[3]),
                old_seq=int(text_of(row[4])),
                old_hash=bytes_of(row[5]),
            )
            if row[7] is None:
                continue  # the next checkpoint signs it
            partition, number, index = (int(text_of(cell)) for cell in row[6:9])
            if self._leaves.get((partition, number), [])[index : index + 1] == [rewind.to_merkle_leaf()]:
                session = (rewind.tenant_id, rewind.session_id)
                found.setdefault(session, []).append((rewind.from_seq, partition, number))
            else:
                self._verdict.note(f"session {rewind.session_id}: checkpoint {number} signed no such decision")
        return found

    def _head_columns(self) -> tuple[str, ...]:
        """Backups of former versions know of no archives."""
        table = self._manifest.find_table(_HEADS)
        return _HEAD_COLUMNS + (_ARCHIVE_COLUMNS if table and _ARCHIVE_COLUMNS[0] in table.columns else ())

    def _rows(self, name: str, *columns: str) -> Iterator[list[bytes | None]]:
        table: StoredTable | None = self._manifest.find_table(name)
        if table is None:
            raise Invalid(f"the backup has no table {name}")
        return rows(self._folder, table, *columns)


_HEAD_COLUMNS = ("tenant_id", "session_id", "first_seq", "parent_session_id", "seq")
_ARCHIVE_COLUMNS = ("archived_seq", "archived_hash")
_ANCHOR_COLUMNS = ("tenant_id", "session_id", "seq", "hash", "kafka_partition", "number", "leaf_index")
_REWIND_COLUMNS = (
    "tenant_id",
    "session_id",
    "from_seq",
    "base_hash",
    "old_seq",
    "old_hash",
    "kafka_partition",
    "number",
    "leaf_index",
)


class _Anchors:
    """The signed heads of one session after the other, in the order of the events."""

    def __init__(
        self,
        found: Iterator[list[bytes | None]],
        leaves: dict[tuple[int, int], list[bytes]],
        rewinds: dict[_Session, list[tuple[int, int, int]]],
        verdict: BackupVerdict,
    ) -> None:
        self._by_session: dict[_Session, dict[int, bytes]] = {}
        for row in found:
            session, seq, head = (text_of(row[0]), text_of(row[1])), int(text_of(row[2])), bytes_of(row[3])
            partition, number, index = (int(text_of(cell)) for cell in row[4:7])
            if leaves.get((partition, number), [])[index : index + 1] != [session_head_leaf(*session, seq, head)]:
                verdict.note(f"session {session[1]} event {seq}: checkpoint {number} signed another hash for it")
            elif not any(
                seq >= from_seq and place == partition and number < decided
                for from_seq, place, decided in rewinds.get(session, [])
            ):
                self._by_session.setdefault(session, {})[seq] = head

    def of(self, session: _Session) -> dict[int, bytes]:
        """Hashes by seq."""
        return self._by_session.pop(session, {})

    @property
    def left(self) -> dict[_Session, dict[int, bytes]]:
        """Those of sessions that were not asked for."""
        return self._by_session


def _begin(session: _Session, head: _Head | None, anchors: dict[int, bytes]) -> ChainChecker:
    head = head or _Head(1, None, 0)
    return ChainChecker(ExpectedChain(*session, head.parent, head.first_seq - 1, anchors, head.archived))


def _head(row: list[bytes | None]) -> _Head:
    archive = row[len(_HEAD_COLUMNS) :]
    archived = (int(text_of(archive[0])), bytes_of(archive[1])) if archive and archive[1] is not None else None
    return _Head(int(text_of(row[2])), text_of(row[3]) or None, int(text_of(row[4])), archived)


def _epoch_of(statement: bytes, otherwise: int) -> int:
    try:
        return Statement.from_bytes(statement).epoch
    except ValueError:
        return otherwise


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()[:_DIGEST_BYTES]
