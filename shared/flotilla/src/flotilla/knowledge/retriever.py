"""What the fleet asks of a store of documents: anything that does this can stand in for the one in PostgreSQL."""

from typing import Protocol

from flotilla.contracts.tasks import Passage
from flotilla.knowledge.documents import DocumentChange, StoreResult, UploadedDocument


class DocumentRetriever(Protocol):
    """Documents in, passages out; every call acts for one tenant."""

    async def add(self, tenant_id: str, upload: UploadedDocument) -> StoreResult:
        """Add a document, or replace the one with its `uri`; the same content again changes nothing.

        Raises:
            Invalid: the document can't be read; the message says why.
        """

    async def remove(self, tenant_id: str, document_id: str) -> DocumentChange:
        """Remove a document and everything that finds it; return what it was.

        Raises:
            NotFound: the tenant has no such document.
        """

    async def search(self, tenant_id: str, query: str, k: int = 5, session_id: str | None = None) -> list[Passage]:
        """Return the `k` best passages for `query`, best first; of attachments, those of `session_id` only.

        Raises:
            Invalid: `k` or the query is out of bounds.
        """
