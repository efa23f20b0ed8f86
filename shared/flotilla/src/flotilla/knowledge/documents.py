"""What goes into the knowledge base and what its parsers make of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from flotilla.postgres import Connection

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedDocument:
    """One document as it was sent. `uri` is its identity: the same one again replaces it."""

    uri: str
    content: bytes
    title: str = ""
    """Empty takes the document's own title, else the last part of `uri`."""
    media_type: str = ""
    """One of `flotilla.knowledge.kinds.MEDIA_TYPES`; empty goes by the ending of `uri`."""
    readers: tuple[str, ...] | None = None
    """Identities and groups who may read it; None leaves it as it is, and a new document to everybody in the tenant."""
    attached_to: str | None = None
    """The session that it is an attachment of; a document stays what it is when it is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreResult:
    """What `KnowledgeBase.add` did."""

    document_id: str
    uri: str
    title: str
    passages: int
    unchanged: bool
    """True when the very same content was there already, and nothing was written."""
    skipped: tuple[str, ...] = ()
    """What of the document was not read, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document of the knowledge base, without its text."""

    document_id: str
    uri: str
    title: str
    media_type: str
    size_bytes: int
    passages: int
    created_at: datetime
    updated_at: datetime
    sha256: str | None
    """Of the bytes as they were sent, in hexadecimal; None where today's parsers did not read them."""
    readers: list[str] | None = None
    """Identities and groups who may read it; None: everybody in the tenant."""
    attached_to: str | None = None
    """The session that it is an attachment of."""


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """A document that was replaced or removed: what it was before."""

    change: Literal["knowledge_document_replaced", "knowledge_document_removed"]
    document_id: str
    uri: str
    title: str
    sha256: str | None


Check: TypeAlias = Callable[[Connection], Awaitable[None]]
Note: TypeAlias = Callable[[Connection, DocumentChange], Awaitable[None]]
"""Records a change in its transaction."""


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where in its document a block is."""

    kind: str
    """`page`, `slide 3`, `sheet Prices, row`. Passages do not go beyond it."""
    number: int = 0
    """Of the page or row, from 1; 0 where `kind` says it all."""

    def __str__(self) -> str:
        return f"{self.kind} {self.number}" if self.number else self.kind

    def to(self, last: "BlockPlace") -> str:
        """From here to `last`, which is of the same kind: pages 12 to 13."""
        return str(self) if last == self else f"{self.kind}s {self.number}\N{EN DASH}{last.number}"


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A heading, paragraph, list item, table row or piece of code."""

    text: str
    level: int = 0
    """1 to 6 for a heading, 0 for everything else."""
    leads: bool = False
    """Whether it belongs to what follows it, as a defined term does."""
    anchors: tuple[str, ...] = ()
    """HTML ids that begin here."""
    place: BlockPlace | None = None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document as a list of blocks."""

    blocks: list[TextBlock]
    title: str = ""
    skipped: tuple[str, ...] = ()
    """What of it is not read, and why: hidden sheets, pages without text, attachments that are pictures."""


@dataclass(frozen=True, slots=True)
class UnstoredPassage:
    """A passage before it is stored: `start` and `end` count characters in the document's text."""

    heading: str
    start: int
    end: int
    text: str
    leads: tuple[str, ...] = ()
    """The terms that it defines, as they stand in the text."""
    anchors: tuple[str, ...] = ()
    """HTML ids that begin in it."""
    place: str = ""
    """Where in the document it is, as people say it."""
