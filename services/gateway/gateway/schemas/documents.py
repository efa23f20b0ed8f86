"""The knowledge base."""

from datetime import datetime

from flotilla.contracts.tasks import Passage
from gateway.schemas.common import Answer


class AddedDocument(Answer):
    """A document as the knowledge base has it now."""

    document_id: str
    uri: str
    title: str
    passages: int
    unchanged: bool
    """True when the very same content was there already."""
    skipped: list[str]
    """What of the document was not read, and why: hidden sheets, pages without text, attachments that are pictures."""


class Document(Answer):
    """A document, without its text."""

    document_id: str
    uri: str
    title: str
    media_type: str
    size_bytes: int
    passages: int
    created_at: datetime
    updated_at: datetime
    sha256: str | None
    """Of the bytes as they were sent, in hexadecimal; null for a document that a former version read."""


class RemovedDocument(Answer):
    """A document that is no longer there."""

    document_id: str
    uri: str
    title: str


class DocumentText(Document):
    """A document with its text, in which the `start` and `end` of a source count characters."""

    text: str


class DocumentList(Answer):
    """A page of documents, by uri."""

    documents: list[Document]
    next_cursor: str | None


class FoundPassages(Answer):
    """Passages, best first."""

    passages: list[Passage]
