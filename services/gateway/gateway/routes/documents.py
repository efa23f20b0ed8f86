"""The knowledge base: what agents may cite."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, TypeAlias

from fastapi import File, Form, Query, Response, UploadFile
from pydantic import AfterValidator, ValidationError

from flotilla.audit import admin_log
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject
from flotilla.eventstore.sessions import load_access_of_session
from flotilla.knowledge import Document as StoredDocument
from flotilla.knowledge import StoreResult, UploadedDocument
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES, DocumentChange
from flotilla.knowledge.kinds import MEDIA_TYPES
from flotilla.postgres import Connection, tenant_transaction
from gateway.access import party_from_stored_name, stored_party_names
from gateway.auth.principal import EVERYONE, OPERATORS, Principal
from gateway.guard import allow, guarded_router
from gateway.names import SOURCE
from gateway.paging import Cursor, Limit, make_cursor, read_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.access import MAX_LISTED, PartyName
from gateway.schemas.common import ID_PATTERN, STORABLE, ResourceId, SessionId, Text
from gateway.schemas.documents import (
    AddedDocument,
    Document,
    DocumentList,
    DocumentText,
    FoundPassages,
    Readers,
    RemovedDocument,
)
from gateway.services import Caller, Wired

router = guarded_router("documents")
FORM_OVERHEAD_BYTES = 64 * 1024
DEFAULT_LIMIT = 100
ATTACHED = "session:"
"""What the uris of attachments begin with; then come session and file name."""
MAX_QUERY_CHARACTERS = 8_000


def _known_type(media_type: str) -> str:
    """The media type with its charset, if it has one: `text/html; charset=windows-1251`."""
    if _plain(media_type) not in ("", *MEDIA_TYPES):
        raise ValueError(f"use one of {', '.join(MEDIA_TYPES)}, or leave it to the ending of the uri")
    return media_type


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


_File: TypeAlias = Annotated[
    UploadFile, File(description="Markdown, HTML, text, CSV, PDF, Word, PowerPoint, Excel or mail (EML).")
]
_Title: TypeAlias = Annotated[str, Form(max_length=500, description="By default the document's own."), STORABLE]
_Readers: TypeAlias = Annotated[
    Sequence[Text], Form(max_length=MAX_LISTED, description="`group:finance`, `user:alice`; the caller is one, too.")
]
_MediaType: TypeAlias = Annotated[str, Form(max_length=100), AfterValidator(_known_type)]
FORM_BYTES = MAX_DOCUMENT_BYTES + FORM_OVERHEAD_BYTES


@router.post(
    "/v1/documents",
    status_code=201,
    response_model=AddedDocument,
    responses={
        200: {"model": AddedDocument, "description": "The same content was there already."},
        **documented_errors(413),
    },
)
@allow(OPERATORS, form_bytes=FORM_BYTES)
async def add_document(
    *,
    services: Wired,
    caller: Caller,
    response: Response,
    file: _File,
    uri: Annotated[
        str | None, Form(max_length=1000, description="Its identity; by default the file's name."), STORABLE
    ] = None,
    title: _Title = "",
    media_type: _MediaType = "",
    readers: _Readers = (),
) -> StoreResult:
    """Load a document. The same `uri` with other content replaces it; with the same content nothing happens. With
    `readers` nobody else reads or finds it; without them it stays as it is, and a new one is for everybody."""
    name = uri or file.filename or ""
    if not name.strip():
        raise Invalid("the document has no name: give the file one, or a uri")
    upload = await _upload(file, name, title, media_type)
    if readers:
        upload = replace(upload, readers=_with_caller(caller, list(map(_party, readers))))
    added = await services.knowledge.add(caller.tenant_id, upload, partial(_note, caller))
    response.status_code = 200 if added.unchanged else 201
    return added


@router.post("/v1/sessions/{session_id}/attachments", status_code=201, response_model=AddedDocument,
             responses=documented_errors(404, 413))  # fmt: skip
@allow(OPERATORS, form_bytes=FORM_BYTES)
async def attach_document(
    *,
    services: Wired,
    caller: Caller,
    session_id: SessionId,
    file: _File,
    title: _Title = "",
    media_type: _MediaType = "",
) -> StoreResult:
    """Attach a document to a session: only questions of this session find it, and only its readers read it."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await load_access_of_session(connection, caller.tenant_id, session_id)
    uri = f"{ATTACHED}{session_id}/{file.filename or 'attachment'}"
    upload = replace(await _upload(file, uri, title, media_type), attached_to=session_id)
    return await services.knowledge.add(caller.tenant_id, upload, partial(_note, caller))


@router.put("/v1/documents/{document_id}/readers", response_model=Document, responses=documented_errors(404, 413, 415))
@allow(OPERATORS)
async def let_read(services: Wired, caller: Caller, document_id: ResourceId, body: Readers) -> Document:
    """Say who may read a document. Others don't find it, nor anything that agents do for them."""
    names = None if body.readers is None else _with_caller(caller, body.readers)
    await services.knowledge.set_readers(caller.tenant_id, document_id, names)
    document, _ = await services.knowledge.document(caller.tenant_id, document_id)
    return Document.model_validate(_shown(document))


@router.put("/v1/documents/{document_id}", response_model=AddedDocument, responses=documented_errors(404, 413))
@allow(OPERATORS, form_bytes=FORM_BYTES)
async def replace_document(
    *,
    services: Wired,
    caller: Caller,
    document_id: ResourceId,
    file: _File,
    title: _Title = "",
    media_type: _MediaType = "",
) -> StoreResult:
    """Give a document other content. It keeps its id and `uri`; what cannot be read leaves it as it was."""
    upload = await _upload(file, file.filename or "", title, media_type)
    return await services.knowledge.replace(caller.tenant_id, document_id, upload, partial(_note, caller))


@router.delete("/v1/documents/{document_id}", response_model=RemovedDocument, responses=documented_errors(404))
@allow(OPERATORS)
async def remove_document(services: Wired, caller: Caller, document_id: ResourceId) -> DocumentChange:
    """Remove a document: no search finds it any more. Answers that cited it keep what was recorded of it."""
    return await services.knowledge.remove(caller.tenant_id, document_id, partial(_note, caller))


def _party(text: str) -> PartyName:
    """`group:finance`, `user:alice` or `alice`."""
    kind, colon, name = text.partition(":")
    try:
        return PartyName.model_validate({"kind": kind, "name": name} if colon else {"name": text})
    except ValidationError as error:
        raise Invalid(f"readers: {text!r} is neither user:NAME nor group:NAME") from error


def _with_caller(caller: Principal, parties: Sequence[PartyName]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*stored_party_names(parties, caller.issuer), caller.name)))


def _shown(document: StoredDocument) -> dict[str, Any]:
    readers = None if document.readers is None else list(map(party_from_stored_name, document.readers))
    return {**asdict(document), "readers": readers}


async def _upload(file: UploadFile, uri: str, title: str, media_type: str) -> UploadedDocument:
    declared = media_type or _declared_type(file.content_type)
    return UploadedDocument(uri=uri, content=await file.read(), title=title, media_type=declared)


async def _note(caller: Principal, connection: Connection, change: DocumentChange) -> None:
    """Record in the tenant's audit session that a document went, or what it said before."""
    details: JsonObject = {
        "document_id": change.document_id,
        "uri": change.uri,
        "title": change.title,
        "sha256": change.sha256,
        "by": caller.subject,
    }
    await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, (change.change, details))


def _declared_type(content_type: str | None) -> str:
    """What the part says it is, where it is one that is read; else the uri's ending decides, and the charset holds."""
    declared = content_type or ""
    _, semicolon, parameters = declared.partition(";")
    return declared if _plain(declared) in MEDIA_TYPES else semicolon + parameters


@router.get("/v1/documents", response_model=DocumentList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_documents(
    *,
    services: Wired,
    caller: Caller,
    prefix: Annotated[str, Query(max_length=1000, description="Only those whose uri begins like this."), STORABLE] = "",
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> DocumentList:
    """List the documents, by uri."""
    position = read_cursor(cursor, 1)
    documents = await services.knowledge.list(caller.tenant_id, position[0] if position else None, limit, prefix)
    shown = list(map(_shown, documents))
    return DocumentList.model_validate({"documents": shown, "next_cursor": _next(documents, limit)})


def _next(documents: list[StoredDocument], limit: int) -> str | None:
    return make_cursor(documents[-1].uri) if len(documents) == limit else None


@router.get("/v1/documents/search", response_model=FoundPassages, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def search_documents(
    services: Wired,
    caller: Caller,
    q: Annotated[str, Query(min_length=1, max_length=MAX_QUERY_CHARACTERS, description="What to look for."), STORABLE],
    k: Annotated[int, Query(ge=1, le=50, description="How many passages.")] = 5,
    session_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Search its attachments, too.")] = None,
) -> FoundPassages:
    """The passages that an agent would find for a question, best first."""
    return FoundPassages(passages=await services.knowledge.search(caller.tenant_id, q, k, session_id))


@router.get("/v1/documents/{document_id}", response_model=DocumentText, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_document(services: Wired, caller: Caller, document_id: ResourceId) -> DocumentText:
    """One document with its text, for the passage that a source names."""
    document, text = await services.knowledge.document(caller.tenant_id, document_id)
    return DocumentText.model_validate({**_shown(document), "text": text})
