"""The OpenAI-compatible API: files for the sessions of their sender, and embeddings."""

from datetime import timedelta
from typing import Annotated, TypeAlias

from fastapi import File as FormFile
from fastapi import Form, Path, Query, Response, UploadFile
from pydantic import BaseModel

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.openai import files
from gateway.openai.embeddings import Embeddings, EmbeddingsRequest, embeddings_of
from gateway.openai.errors import PREFIX, documented_errors
from gateway.openai.messages import FILE_ID, Filename
from gateway.problems import checked_model
from gateway.services import Caller, Wired

router = guarded_router("openai")
_V1 = f"{PREFIX}v1"
FORM_BYTES = MAX_DOCUMENT_BYTES + 64 * 1024
MAX_LISTED = 10_000
_BINARY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
FileId: TypeAlias = Annotated[str, Path(pattern=FILE_ID, description="The file's id.")]
_Seconds: TypeAlias = Annotated[
    int | None, Form(alias="expires_after[seconds]", ge=files.MIN_EXPIRY_S, le=files.MAX_EXPIRY_S)
]
_Anchor: TypeAlias = Annotated[str | None, Form(alias="expires_after[anchor]", pattern="^created_at$")]


class FileList(BaseModel):
    """A page of files."""

    object: str = "list"
    data: list[files.File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """A file that is no longer there."""

    id: str
    object: str = "file"
    deleted: bool = True


@router.post(f"{_V1}/files", response_model=files.File, responses=documented_errors())
@allow(OPERATORS, form_bytes=FORM_BYTES, for_others=True, any_query=True)
async def create_file(
    *,
    services: Wired,
    caller: Caller,
    file: Annotated[UploadFile, FormFile(description="What documents may be.")],
    purpose: Annotated[files.Purpose, Form(description="`user_data` or `assistants`; both mean the same here.")],
    expires_after_seconds: _Seconds = None,
    expires_after_anchor: _Anchor = None,
) -> files.File:
    """Keep a file, for `input_file` of later requests: 30 days long, or as long as `expires_after` says."""
    content = await file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise Invalid(f"the file has more than {MAX_DOCUMENT_BYTES} bytes")
    name = checked_model(_Named, filename=file.filename or "").filename
    lasts = files.DEFAULT_EXPIRY if expires_after_seconds is None else timedelta(seconds=expires_after_seconds)
    return await files.add_file(services, caller, content, filename=name, purpose=purpose, expires_after=lasts)


class _Named(BaseModel):
    filename: Filename


@router.get(f"{_V1}/files", response_model=FileList, responses=documented_errors())
@allow(EVERYONE, for_others=True, any_query=True)
async def list_files(
    *,
    services: Wired,
    caller: Caller,
    purpose: Annotated[files.Purpose | None, Query(description="Only these.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED, description="How many.")] = MAX_LISTED,
    after: Annotated[str | None, Query(pattern=FILE_ID, description="The last one of the page before.")] = None,
    order: Annotated[files.Order, Query(description="By when they were sent.")] = "desc",
) -> FileList:
    """List the caller's files."""
    found = await files.list_files(services, caller, purpose=purpose, limit=limit + 1, after=after, order=order)
    page = found[:limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return FileList(data=page, first_id=first, last_id=last, has_more=len(found) > limit)


@router.get(f"{_V1}/files/{{file_id}}", response_model=files.File, responses=documented_errors())
@allow(EVERYONE, for_others=True, any_query=True)
async def get_file(services: Wired, caller: Caller, file_id: FileId) -> files.File:
    """Return a file of the caller, without its content."""
    return await files.get_file(services, caller, file_id)


@router.get(
    f"{_V1}/files/{{file_id}}/content", response_class=Response, responses={200: _BINARY, **documented_errors()}
)
@allow(EVERYONE, for_others=True, any_query=True)
async def get_file_content(services: Wired, caller: Caller, file_id: FileId) -> Response:
    """Return what is in a file, as bytes of no type: no browser shows it."""
    content = await files.content_of(services, caller, file_id)
    return Response(content, media_type="application/octet-stream", headers={"Content-Disposition": "attachment"})


@router.delete(f"{_V1}/files/{{file_id}}", response_model=DeletedFile, responses=documented_errors())
@allow(OPERATORS, for_others=True, any_query=True)
async def delete_file(services: Wired, caller: Caller, file_id: FileId) -> DeletedFile:
    """Delete a file, and take it from the sessions that it is attached to."""
    await files.delete_file(services, caller, file_id)
    return DeletedFile(id=file_id)


@router.post(f"{_V1}/embeddings", response_model=Embeddings, responses=documented_errors())
@allow(OPERATORS, free_json=True, for_others=True, any_query=True)
async def create_embeddings(services: Wired, caller: Caller, body: EmbeddingsRequest) -> Embeddings:
    """Return the vectors of texts, by the model of the fleet's searches."""
    return await embeddings_of(services.embedding_turns, services.knowledge.embedder, caller, body)
