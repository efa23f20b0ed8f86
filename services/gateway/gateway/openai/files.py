"""Files of OpenAI's clients: each its sender's own until it expires, attached to the sessions whose questions name it.

What is attached is a document of the knowledge base, as attachments of sessions are: its text is found by questions of
that session alone.
"""

import base64
import binascii
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Literal, TypeAlias

import asyncpg
from pydantic import BaseModel

from flotilla.contracts.errors import Invalid, NotFound
from flotilla.contracts.ids import new_id
from flotilla.eventstore.sessions import ensure_session
from flotilla.knowledge import UploadedDocument
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES
from flotilla.postgres import Connection, tenant_transaction
from gateway.auth.principal import Principal
from gateway.openai.messages import FileRef
from gateway.problems import TooMany
from gateway.services import GatewayServices

Purpose: TypeAlias = Literal["user_data", "assistants"]
Order: TypeAlias = Literal["asc", "desc"]
DEFAULT_EXPIRY = timedelta(days=30)
MIN_EXPIRY_S = 3600
MAX_EXPIRY_S = int(DEFAULT_EXPIRY.total_seconds())
MAX_FILES = 500
"""Of one person or service."""
MAX_TOTAL_BYTES = 256 * 1024 * 1024
"""Of all of them."""
MAX_IN_REQUEST = 20
RETRY_S = 60.0
_COLUMNS = "file_id, filename, purpose, size_bytes, created_at, expires_at"
_MINE = "tenant_id = $1 AND owner = $2 AND expires_at > now()"
# Of two files at once, the second one counts the first.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('openai_files:' || $1 || ':' || $2, 0))"
_SELECT_USED_OPENAI_FILES = (
    f"SELECT count(*) AS files, coalesce(sum(size_bytes), 0) AS bytes FROM flotilla.openai_files WHERE {_MINE}"  # noqa: S608 - constants
)
_INSERT_OPENAI_FILES = f"""
INSERT INTO flotilla.openai_files (tenant_id, owner, file_id, filename, purpose, size_bytes, content, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8::interval) RETURNING {_COLUMNS}
"""  # noqa: S608
_SELECT_OPENAI_FILES = f"SELECT {_COLUMNS} FROM flotilla.openai_files WHERE {_MINE} AND file_id = $3"  # noqa: S608
_SELECT_CONTENT_OPENAI_FILES = f"SELECT filename, content FROM flotilla.openai_files WHERE {_MINE} AND file_id = $3"  # noqa: S608
_DELETE_OPENAI_FILES = f"DELETE FROM flotilla.openai_files WHERE {_MINE} AND file_id = $3"  # noqa: S608
# A page; $5 is the last file of the page before.
_LIST_OPENAI_FILES = f"""
SELECT {_COLUMNS} FROM flotilla.openai_files WHERE {_MINE} AND ($3::text IS NULL OR purpose = $3)
  AND ($5::text IS NULL OR (created_at, file_id) %s (
      SELECT created_at, file_id FROM flotilla.openai_files WHERE tenant_id = $1 AND owner = $2 AND file_id = $5))
ORDER BY created_at %s, file_id %s LIMIT $4
"""  # noqa: S608
_SELECT_ATTACHED_DOCUMENTS = """
SELECT document_id FROM flotilla.documents
WHERE tenant_id = $1 AND attached_to IS NOT NULL AND split_part(uri, '/', 2) = $2
"""
_IS_ATTACHED = "SELECT FROM flotilla.documents WHERE tenant_id = $1 AND attached_to = $2 AND starts_with(uri, $3)"


class File(BaseModel):
    """A file."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str = "processed"


async def add_file(
    services: GatewayServices,
    caller: Principal,
    content: bytes,
    *,
    filename: str,
    purpose: Purpose,
    expires_after: timedelta,
) -> File:
    """Keep a file of the caller.

    Raises:
        TooMany: it is one more than one may have, or more bytes.
    """
    place = (caller.tenant_id, caller.name)
    file_id = f"file-{new_id().replace('-', '')}"
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await connection.execute(_LOCK, *place)
        used = await connection.fetchrow(_SELECT_USED_OPENAI_FILES, *place)
        assert used is not None  # noqa: S101 - an aggregate has one row
        if used["files"] >= MAX_FILES or used["bytes"] + len(content) > MAX_TOTAL_BYTES:
            what = f"{used['files']} files of {used['bytes']} bytes"
            raise TooMany(f"you have {what}; {MAX_FILES} of {MAX_TOTAL_BYTES} are allowed: delete some", RETRY_S)
        row = await connection.fetchrow(
            _INSERT_OPENAI_FILES, *place, file_id, filename, purpose, len(content), content, expires_after
        )
    assert row is not None  # noqa: S101 - it was added
    return _file(row)


async def get_file(services: GatewayServices, caller: Principal, file_id: str) -> File:
    """Return a file of the caller.

    Raises:
        NotFound: there is none, or it has expired.
    """
    return _file(await _row(services, caller, _SELECT_OPENAI_FILES, file_id))


async def content_of(services: GatewayServices, caller: Principal, file_id: str) -> bytes:
    """Return what is in a file of the caller.

    Raises:
        NotFound: there is none, or it has expired.
    """
    content: bytes = (await _row(services, caller, _SELECT_CONTENT_OPENAI_FILES, file_id))["content"]
    return content


async def list_files(
    services: GatewayServices, caller: Principal, *, purpose: str | None, limit: int, after: str | None, order: Order
) -> list[File]:
    """Return a page of the caller's files."""
    query = _LIST_OPENAI_FILES % (("<", "DESC", "DESC") if order == "desc" else (">", "ASC", "ASC"))
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await connection.fetch(query, caller.tenant_id, caller.name, purpose, limit, after)
    return [_file(row) for row in rows]


async def delete_file(services: GatewayServices, caller: Principal, file_id: str) -> None:
    """Delete a file of the caller, and take it from the sessions that it is attached to.

    Raises:
        NotFound: there is none.
    """
    place = (caller.tenant_id, caller.name, file_id)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        if await connection.fetchrow(_SELECT_OPENAI_FILES, *place) is None:
            raise _no_file(file_id)
        attached = await connection.fetch(_SELECT_ATTACHED_DOCUMENTS, caller.tenant_id, file_id)
    for row in attached:
        with suppress(NotFound):  # an equal request removed it
            await services.knowledge.remove(caller.tenant_id, row["document_id"])
    # The file goes last: a deletion that was interrupted can be asked for again.
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await connection.execute(_DELETE_OPENAI_FILES, *place)


async def attach(services: GatewayServices, caller: Principal, session_id: str, files: Sequence[FileRef]) -> None:
    """Attach files to a session, which is opened where it is new. One that is attached already stays as it is.

    Raises:
        NotFound: one of them is not there, or the session is another person's.
        Forbidden: the caller may only read the session.
        Invalid: a file can't be read, or there are too many.
    """
    if not files:
        return
    if len(files) > MAX_IN_REQUEST:
        raise Invalid(f"the request has {len(files)} files, {MAX_IN_REQUEST} are allowed")
    tenant_id = caller.tenant_id
    wanted: list[UploadedDocument | str] = []
    async with tenant_transaction(services.pool, tenant_id) as connection:
        await ensure_session(connection, tenant_id, session_id, caller.subject, services.access_for_new_session(caller))
        for file in files:
            if file.file_id is None:
                wanted.append(_attachment(session_id, file.filename or "", _decoded(file.file_data or "")))
            elif not await _is_attached(connection, tenant_id, session_id, file.file_id):
                if await connection.fetchrow(_SELECT_OPENAI_FILES, tenant_id, caller.name, file.file_id) is None:
                    raise _no_file(file.file_id)
                wanted.append(file.file_id)
    for one in wanted:  # of those that are stored, one is in memory at a time
        upload = one if isinstance(one, UploadedDocument) else await _stored(services, caller, session_id, one)
        await services.knowledge.add(tenant_id, upload)


async def _is_attached(connection: Connection, tenant_id: str, session_id: str, file_id: str) -> bool:
    place = f"session:{session_id}/{file_id}/"
    return await connection.fetchrow(_IS_ATTACHED, tenant_id, session_id, place) is not None


async def _stored(services: GatewayServices, caller: Principal, session_id: str, file_id: str) -> UploadedDocument:
    row = await _row(services, caller, _SELECT_CONTENT_OPENAI_FILES, file_id)
    return _attachment(session_id, f"{file_id}/{row['filename']}", row["content"])


def _attachment(session_id: str, name: str, content: bytes) -> UploadedDocument:
    return UploadedDocument(uri=f"session:{session_id}/{name}", content=content, attached_to=session_id)


def _decoded(data: str) -> bytes:
    _, comma, rest = data.partition(",") if data.startswith("data:") else ("", "", "")
    try:
        content = base64.b64decode(rest if comma else data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("file_data is not base64") from error
    if len(content) > MAX_DOCUMENT_BYTES:
        raise Invalid(f"the file has {len(content)} bytes, {MAX_DOCUMENT_BYTES} are allowed")
    return content


async def _row(services: GatewayServices, caller: Principal, query: str, file_id: str) -> asyncpg.Record:
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        row = await connection.fetchrow(query, caller.tenant_id, caller.name, file_id)
    if row is None:
        raise _no_file(file_id)
    return row


def _no_file(file_id: str) -> NotFound:
    return NotFound(f"no file {file_id}: GET /openai/v1/files lists yours")


def _file(row: asyncpg.Record) -> File:
    return File(
        id=row["file_id"],
        bytes=row["size_bytes"],
        created_at=int(row["created_at"].timestamp()),
        expires_at=int(row["expires_at"].timestamp()),
        filename=row["filename"],
        purpose=row["purpose"],
    )
