"""The knowledge base."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from flotilla.contracts.tasks import Passage
from gateway.schemas.access import Parties, Party
from gateway.schemas.common import Answer, RequestBody


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
    readers: list[Party] | None = None
    """Who may read it; null: everybody in the tenant."""
    attached_to: str | None = None
    """The session that it is an attachment of: only its questions find it."""


class Readers(RequestBody):
    """Who may read a document."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"readers": [{"kind": "group", "name": "finance"}]}]})

    readers: Annotated[Parties, Field(min_length=1)] | None
    """Null: everybody in the tenant. The caller stays one of them."""


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
