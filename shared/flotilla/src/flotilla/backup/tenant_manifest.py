"""What the export of a tenant says of itself, and who signed it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flotilla.audit.proof import genesis_hash, next_chain_hash
from flotilla.backup.copy_text import bytes_of, rows, text_of
from flotilla.backup.files import problem_of
from flotilla.backup.manifest import StoredFile, StoredTable, read_signed_manifest
from flotilla.config.signing import PublicKeys
from flotilla.contracts.errors import Refused
from flotilla.contracts.json_types import JsonObject

FORMAT = "flotilla-tenant/1"
EVENTS, HEADS = "audit.session_events", "audit.session_heads"
EVENT_COLUMNS = ("session_id", "seq", "event_id", "traceparent", "hash", "body")
HEAD_COLUMNS = ("session_id", "seq", "first_seq", "parent_session_id", "hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTenantKey:
    """The key that wraps those of the tenant's people."""

    root_id: str
    """The root key that wraps it in the fleet that it comes from."""
    wrapped_key: bytes | None
    """As it is there; None where it is in `sealed`."""
    sealed: StoredFile | None
    """The key itself, encrypted with the passphrase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantManifest:
    """Everything that belongs to one export. What is not named here is not part of it."""

    export_id: str
    tenant_id: str
    created_at: str
    point: str
    """When the database's snapshot was taken."""
    migrations: list[str]
    """The schema's version: the other fleet has to have the same."""
    tables: list[StoredTable]
    events: StoredTable
    heads: StoredTable
    key: StoredTenantKey | None
    """None where nothing of the tenant is encrypted."""
    open_work: int
    """Runs, actions, orders and tasks that had begun: Temporal's part of them is not moved, so they end."""
    format: str = FORMAT

    def files(self) -> list[StoredFile]:
        """Every file but the manifest and its signature."""
        sealed = [self.key.sealed] if self.key is not None and self.key.sealed is not None else []
        return [*(table.file for table in (*self.tables, self.events, self.heads)), *sealed]

    def as_json_object(self) -> JsonObject:
        """What people are shown."""
        return {
            "export_id": self.export_id,
            "tenant_id": self.tenant_id,
            "point": self.point,
            "rows": sum(table.rows for table in self.tables),
            "sessions": self.heads.rows,
            "events": self.events.rows,
            "open_work": self.open_work,
            "encrypted": self.key is not None,
            "size_bytes": sum(file.size_bytes for file in self.files()),
        }


@dataclass(frozen=True, slots=True)
class ExportedEvent:
    """An event of the export, as it was recorded."""

    session_id: str
    seq: int
    event_id: str
    traceparent: str | None
    body: bytes


def read_verified_export(folder: Path, keys: PublicKeys) -> TenantManifest:
    """Return the manifest of an export whose signature, files and chains hold.

    Raises:
        Refused: they do not.
        Invalid: there is no export in the folder.
    """
    manifest, _, found = read_signed_manifest(folder, keys, TenantManifest, FORMAT)
    problems = [*found, *(problem for file in manifest.files() if (problem := problem_of(folder, file)))]
    if not problems:
        count = sum(1 for _ in read_events(folder, manifest))
        if count != manifest.events.rows:
            problems = [f"it holds {count} events, not {manifest.events.rows}"]
    if problems:
        raise Refused(f"the export is not what was signed, so nothing was changed: {'; '.join(problems)}")
    return manifest


def read_events(folder: Path, manifest: TenantManifest) -> Iterator[ExportedEvent]:
    """Read the events, session by session in their order, and check each one's place in its chain.

    Raises:
        Refused: a chain does not hold, or does not end in its head.
    """
    heads = {
        text_of(session): (int(text_of(seq)), int(text_of(first)), text_of(parent) or None, bytes_of(digest))
        for session, seq, first, parent, digest in rows(folder, manifest.heads, *HEAD_COLUMNS)
    }
    reached: dict[str, tuple[int, bytes]] = {}
    for session, seq, event_id, traceparent, digest, body in rows(folder, manifest.events, *EVENT_COLUMNS):
        event = ExportedEvent(
            text_of(session), int(text_of(seq)), text_of(event_id), text_of(traceparent) or None, bytes_of(body)
        )
        if event.session_id not in heads:
            raise Refused(f"session {event.session_id} of the export has events and no head")
        _, first, parent, _ = heads[event.session_id]
        start = (first - 1, genesis_hash(manifest.tenant_id, event.session_id, parent, first - 1 if parent else 0))
        before, chained = reached.get(event.session_id, start)
        following = next_chain_hash(chained, event.body)
        if event.seq != before + 1 or following != bytes_of(digest):
            raise Refused(f"the chain of session {event.session_id} of the export does not hold at seq {event.seq}")
        reached[event.session_id] = (event.seq, following)
        yield event
    for session_id, (head_seq, _, _, head_hash) in heads.items():
        if reached.get(session_id) != (head_seq, head_hash):
            raise Refused(f"the chain of session {session_id} of the export does not end in its head, seq {head_seq}")
