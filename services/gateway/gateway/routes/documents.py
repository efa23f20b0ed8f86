"""The knowledge base: what agents may cite."""

from dataclasses import asdict
from typing import Annotated

from fastapi import File, Form, Query, Response, UploadFile
from pydantic import AfterValidator

from flotilla.contracts.errors import Invalid
from flotilla.knowledge import Document as StoredDocument
from flotilla.knowledge import Upload
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.paging import Cursor, Limit, make_cursor, read_cursor
from gateway.routes.documented import refusals
from gateway.schemas.common import ResourceId, Text
from gateway.schemas.documents import AddedDocument, DocumentList, DocumentText, FoundPassages
from gateway.services import Caller, Wired

router = guarded_router("documents")
FORM_OVERHEAD_BYTES = 64 * 1024
DEFAULT_LIMIT = 100
MAX_QUERY_CHARACTERS = 8_000
_TYPES = ("text/markdown", "text/html", "text/plain")


def _known_type(media_type: str) -> str:
    """The media type with its charset, if it has one: `text/html; charset=windows-1251`."""
    if _plain(media_type) not in ("", *_TYPES):
        raise ValueError(f"use one of {', '.join(_TYPES)}, or leave it to the ending of the uri")
    return media_type


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


@router.post(
    "/v1/documents",
    status_code=201,
    response_model=AddedDocument,
    responses={200: {"model": AddedDocument, "description": "The same content was there already."}, **refusals(413)},
)
@allow(OPERATORS, form_bytes=MAX_DOCUMENT_BYTES + FORM_OVERHEAD_BYTES)
async def add_document(
    *,
    services: Wired,
    caller: Caller,
    response: Response,
    file: Annotated[UploadFile, File(description="Markdown, HTML or plain text.")],
    uri: Annotated[Text | None, Form(max_length=1000, description="Its identity; by default the file's name.")] = None,
    title: Annotated[Text, Form(max_length=500, description="By default the document's own.")] = "",
    media_type: Annotated[str, Form(max_length=100), AfterValidator(_known_type)] = "",
) -> AddedDocument:
    """Load a document. The same `uri` with other content replaces it; with the same content nothing happens."""
    name = uri or file.filename or ""
    if not name.strip():
        raise Invalid("the document has no name: give the file one, or a uri")
    upload = Upload(
        uri=name, content=await file.read(), title=title, media_type=media_type or _declared_type(file.content_type)
    )
    added = await services.knowledge.add(caller.tenant_id, upload)
    response.status_code = 200 if added.unchanged else 201
    return AddedDocument(
        document_id=added.document_id, uri=name, title=added.title, passages=added.passages, unchanged=added.unchanged
    )


def _declared_type(content_type: str | None) -> str:
    """What the part says it is, where it is one that is read; else the uri's ending decides, and the charset holds."""
    declared = content_type or ""
    _, semicolon, parameters = declared.partition(";")
    return declared if _plain(declared) in _TYPES else semicolon + parameters


@router.get("/v1/documents", response_model=DocumentList, responses=refusals())
@allow(EVERYONE)
async def list_documents(
    services: Wired, caller: Caller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> DocumentList:
    """List the documents, by uri."""
    position = read_cursor(cursor, 1)
    documents = await services.knowledge.list(caller.tenant_id, position[0] if position else None, limit)
    return DocumentList.model_validate({"documents": documents, "next_cursor": _next(documents, limit)})


def _next(documents: list[StoredDocument], limit: int) -> str | None:
    return make_cursor(documents[-1].uri) if len(documents) == limit else None


@router.get("/v1/documents/search", response_model=FoundPassages, responses=refusals())
@allow(EVERYONE)
async def search_documents(
    services: Wired,
    caller: Caller,
    q: Annotated[Text, Query(min_length=1, max_length=MAX_QUERY_CHARACTERS, description="What to look for.")],
    k: Annotated[int, Query(ge=1, le=50, description="How many passages.")] = 5,
) -> FoundPassages:
    """The passages that an agent would find for a question, best first."""
    return FoundPassages(passages=await services.knowledge.search(caller.tenant_id, q, k))


@router.get("/v1/documents/{document_id}", response_model=DocumentText, responses=refusals(404))
@allow(EVERYONE)
async def get_document(services: Wired, caller: Caller, document_id: ResourceId) -> DocumentText:
    """One document with its text, for the passage that a source names."""
    document, text = await services.knowledge.document(caller.tenant_id, document_id)
    return DocumentText.model_validate({**asdict(document), "text": text})
