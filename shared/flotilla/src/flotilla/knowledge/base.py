"""The knowledge base of each tenant, in PostgreSQL."""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import asyncpg
import structlog

from flotilla.contracts.errors import Forbidden, Invalid, RetryLater, no_such
from flotilla.contracts.ids import IdMaker, new_id
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage
from flotilla.knowledge import indexing
from flotilla.knowledge.documents import (
    Check,
    Document,
    DocumentChange,
    Note,
    ParsedDocument,
    StoreResult,
    UploadedDocument,
)
from flotilla.knowledge.embedding import (
    SEARCH_TIMEOUT_S,
    ClosableEmbedder,
    Embedder,
    PassageEmbedding,
    embed_question,
    unrelated_cosine,
)
from flotilla.knowledge.embedding_outside import ExternalPassageEmbedding, vector_index_name
from flotilla.knowledge.fusion import Row
from flotilla.knowledge.indexing import DocumentIndexEntry
from flotilla.knowledge.languages import check_language
from flotilla.knowledge.meaning import EmbeddedQuestion
from flotilla.knowledge.parse import parse_document
from flotilla.knowledge.ranking import DEPTH, RankingOptions, SearchRequest, choose_passages, ranked_passages
from flotilla.knowledge.recognition import detect_language
from flotilla.knowledge.reindexing import ReindexingJob
from flotilla.knowledge.reranking import ClosableReranker, Reranker, rerank
from flotilla.knowledge.split import HEADING_SEPARATOR, SplitDocument, split_into_passages
from flotilla.knowledge.vector_store import VectorStore
from flotilla.postgres import Connection, Pool, tenant_snapshot, tenant_transaction
from flotilla.runtime.confined import FunctionRunner, OverLimit

READER_VERSION = "4"
"""Part of every content hash: raise it when parsing or splitting changes, and documents that are added again are read
again."""
DEFAULT_LANGUAGE = "en"
MAX_URI_CHARACTERS = 1000
MAX_TITLE_CHARACTERS = 500
MAX_PASSAGES = 50
MAX_QUERY_CHARACTERS = 100_000

_SELECT_DOCUMENTS = """
SELECT document_id, uri, title, passages, content_hash, encode(sha256, 'hex') AS sha256 FROM flotilla.documents
WHERE tenant_id = $1 AND uri = $2
"""
_FIND_BY_ID = """
SELECT document_id, uri, title, passages, encode(sha256, 'hex') AS sha256 FROM flotilla.documents
WHERE tenant_id = $1 AND document_id = $2
"""
_UPSERT_DOCUMENTS = """
INSERT INTO flotilla.documents
    (tenant_id, document_id, uri, title, media_type, content_hash, size_bytes, body, passages, sha256, reader, readers,
     attached_to)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (tenant_id, document_id) DO UPDATE SET
    title = excluded.title, media_type = excluded.media_type, content_hash = excluded.content_hash,
    size_bytes = excluded.size_bytes, body = excluded.body, passages = excluded.passages, sha256 = excluded.sha256,
    reader = excluded.reader, readers = coalesce(excluded.readers, documents.readers), updated_at = now()
"""
_COLUMNS = f"""document_id, uri, title, media_type, size_bytes, passages, created_at, updated_at, readers, attached_to,
    CASE WHEN reader = '{READER_VERSION}' THEN encode(sha256, 'hex') END AS sha256"""
_LIST_DOCUMENTS = f"""
SELECT {_COLUMNS} FROM flotilla.documents
WHERE tenant_id = $1 AND uri > $2 AND starts_with(uri, $4) ORDER BY uri LIMIT $3
"""  # noqa: S608 - constants
_SELECT_DOCUMENT = f"SELECT {_COLUMNS}, body FROM flotilla.documents WHERE tenant_id = $1 AND document_id = $2"  # noqa: S608
_LET_READ = """
UPDATE flotilla.documents SET readers = $3, updated_at = now() WHERE tenant_id = $1 AND document_id = $2
RETURNING document_id
"""
_SELECT_STANDING_HIDDEN_DOCUMENTS = """
SELECT h AS document_id, true AS is_hidden FROM flotilla.hidden_documents() AS h WHERE h = ANY ($2::text[])
UNION ALL
SELECT document_id, false FROM flotilla.documents WHERE tenant_id = $1 AND document_id = ANY ($2::text[])
"""
_DELETE_DOCUMENTS = "DELETE FROM flotilla.documents WHERE tenant_id = $1 AND document_id = $2"
_SELECT_TEXT_DOCUMENTS = "SELECT body FROM flotilla.documents WHERE tenant_id = $1 AND document_id = $2"


log = structlog.get_logger(__name__)


async def unreadable_and_missing_documents(
    connection: Connection, tenant_id: str, document_ids: Iterable[str]
) -> tuple[set[str], set[str]]:
    """Return those of `document_ids` that the caller may not read, and those that the tenant has no document of."""
    asked = set(document_ids)
    if not asked:
        return set(), set()
    rows = await connection.fetch(_SELECT_STANDING_HIDDEN_DOCUMENTS, tenant_id, sorted(asked))
    hidden = {row["document_id"] for row in rows if row["is_hidden"]}
    return hidden, asked - {row["document_id"] for row in rows}


async def _unnoted(_connection: Connection, _change: DocumentChange) -> None:
    """Record nothing."""


class KnowledgeBase:
    """Documents in, passages out. Every call acts for one tenant, under row level security."""

    def __init__(
        self,
        pool: Pool,
        *,
        ranking: RankingOptions | None = None,
        language: str = DEFAULT_LANGUAGE,
        embedder: Embedder | None = None,
        vectors: VectorStore | None = None,
        reranker: Reranker | None = None,
        run: FunctionRunner = asyncio.to_thread,
        make_id: IdMaker = new_id,
    ) -> None:
        """`language` is that of documents which do not show theirs. `run` runs what reads a document: `Confined.run`
        where strangers send them. With an `embedder`, searches rank by meaning, too: with its vectors in PostgreSQL, or
        in `vectors`. A `reranker` orders what is found first.

        Raises:
            ConfigurationError: no such language is known.
        """
        check_language(language)
        self._pool = pool
        self._run = run
        self._ranking = ranking or RankingOptions()
        self._language = language
        self._embedder = embedder
        self._vectors = vectors
        self._reranker = reranker
        self._make_id = make_id

    @property
    def embedder(self) -> Embedder | None:
        """The model of searches by meaning; None where words alone decide."""
        return self._embedder

    async def close(self) -> None:
        """Release what the models of searches hold."""
        if isinstance(self._embedder, ClosableEmbedder):
            await self._embedder.close()
        if isinstance(self._reranker, ClosableReranker):
            await self._reranker.close()

    async def add(self, tenant_id: str, upload: UploadedDocument, note: Note = _unnoted) -> StoreResult:
        """Read, cut and index one document. The same `uri` with other content replaces it in one transaction: a
        search sees the old passages or the new ones. The same content again is not read at all.

        Idempotency key: (tenant, uri, content).

        Raises:
            Invalid: the document can't be read; the message says why.
        """
        return await self._add(tenant_id, upload, note, None)

    async def replace(
        self, tenant_id: str, document_id: str, upload: UploadedDocument, note: Note = _unnoted
    ) -> StoreResult:
        """Give a document other content. It keeps its id and its uri; that of `upload` does not count.

        Raises:
            Invalid: the content can't be read; the document stays as it was.
            NotFound: the tenant has no such document.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await _get(connection, tenant_id, document_id)
        return await self._add(tenant_id, replace(upload, uri=row["uri"]), note, document_id)

    async def _add(self, tenant_id: str, upload: UploadedDocument, note: Note, document_id: str | None) -> StoreResult:
        _check(upload)
        content_hash = _hash_of(upload)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            same = await _find_same(connection, tenant_id, upload.uri, content_hash)
        if same and upload.readers is None:
            return same
        try:
            read = await self._run(_read, upload, content_hash, self._language)
        except OverLimit as error:
            raise OverLimit(f"{upload.uri}: {error}: split it, or send it as plain text") from error
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await indexing.lock(connection, tenant_id)
            if document_id is not None:
                await _get(connection, tenant_id, document_id)
            same = await _find_same(connection, tenant_id, upload.uri, content_hash)
            if same and upload.readers is not None:
                await connection.fetchval(_LET_READ, tenant_id, same.document_id, list(upload.readers))
            return same or await self._put(connection, tenant_id, upload, read, note)

    async def _put(
        self, connection: Connection, tenant_id: str, upload: UploadedDocument, read: "_Read", note: Note
    ) -> StoreResult:
        uri = upload.uri
        existing = await connection.fetchrow(_SELECT_DOCUMENTS, tenant_id, uri)
        document_id = existing["document_id"] if existing else self._make_id()
        if existing:
            await indexing.remove_passages(connection, tenant_id, document_id, existing["passages"])
        pieces = read.document.pieces
        with _refusing_hidden(uri):
            await connection.execute(
                _UPSERT_DOCUMENTS,
                tenant_id,
                document_id,
                uri,
                read.title,
                read.media_type,
                read.content_hash,
                read.size_bytes,
                read.document.text,
                len(pieces),
                read.sha256,
                READER_VERSION,
                None if upload.readers is None else list(upload.readers),
                upload.attached_to,
            )
        await indexing.insert_passages(connection, tenant_id, document_id, pieces, read.entry)
        if existing:
            await note(connection, _change("knowledge_document_replaced", existing))
        return StoreResult(
            document_id=document_id,
            uri=uri,
            title=read.title,
            passages=len(pieces),
            unchanged=False,
            skipped=read.skipped,
        )

    async def remove(
        self, tenant_id: str, document_id: str, note: Note = _unnoted, check: Check | None = None
    ) -> DocumentChange:
        """Remove a document and everything that finds it, in one transaction; return what it was.

        `check` may refuse it by an error, while nobody else can change the document.

        Raises:
            NotFound: the tenant has no such document.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await indexing.lock(connection, tenant_id)
            if check is not None:
                await check(connection)
            row = await _get(connection, tenant_id, document_id)
            await indexing.remove_passages(connection, tenant_id, document_id, row["passages"])
            await connection.execute(_DELETE_DOCUMENTS, tenant_id, document_id)
            change = _change("knowledge_document_removed", row)
            await note(connection, change)
        return change

    async def set_readers(self, tenant_id: str, document_id: str, readers: Sequence[str] | None) -> None:
        """Say who may read a document: identities and groups, or everybody in the tenant.

        Raises:
            NotFound: the tenant has no such document, or none that the caller may read.
        """
        names = None if readers is None else list(readers)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if await connection.fetchval(_LET_READ, tenant_id, document_id, names) is None:
                raise no_such("document", document_id)

    async def text(self, tenant_id: str, document_id: str) -> str:
        """The document's text, in which the `start` and `end` of sources count characters.

        Raises:
            NotFound: the tenant has no such document.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            text: str | None = await connection.fetchval(_SELECT_TEXT_DOCUMENTS, tenant_id, document_id)
        if text is None:
            raise no_such("document", document_id)
        return text

    async def document(self, tenant_id: str, document_id: str) -> tuple[Document, str]:
        """One document and its text, of the same moment.

        Raises:
            NotFound: the tenant has no such document.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_DOCUMENT, tenant_id, document_id)
        if row is None:
            raise no_such("document", document_id)
        fields = dict(row)
        return Document(**{name: value for name, value in fields.items() if name != "body"}), fields["body"]

    async def search(self, tenant_id: str, query: str, k: int = 5, session_id: str | None = None) -> list[Passage]:
        """The `k` best passages for `query`, best first; none when no term of it occurs. With a `session_id` its
        attachments are searched, too. What the caller may not read is as if it were not there.

        Raises:
            Invalid: `k` is not between 1 and 50, or the query is over 100,000 characters.
        """
        if not 1 <= k <= MAX_PASSAGES:
            raise Invalid(f"k is {k}: ask for 1 to {MAX_PASSAGES} passages")
        if len(query) > MAX_QUERY_CHARACTERS:
            raise Invalid(f"the query has {len(query)} characters, {MAX_QUERY_CHARACTERS} are allowed")
        text = query.replace("\x00", " ")
        meant = await self._meant(text)
        most = max(k * DEPTH, self._ranking.reranked if self._reranker else 0)
        async with tenant_snapshot(self._pool, tenant_id) as connection:
            wanted = SearchRequest(text, most, session_id, meant)
            rows = await ranked_passages(connection, tenant_id, wanted)
        if self._reranker:
            rows = await rerank(self._reranker, text, rows, self._ranking.reranked)
        return [_passage(row) for row in choose_passages(rows, k, self._ranking.per_document)]

    async def _meant(self, query: str) -> EmbeddedQuestion | None:
        """The question's embedding; none where the model is away, so that words alone decide."""
        if self._embedder is None or not query.strip():
            return None
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                vector = await embed_question(self._embedder, query)
        except (RetryLater, TimeoutError) as error:
            log.warning("question_not_embedded", error=str(error) or type(error).__name__)
            return None
        index = vector_index_name(self._vectors, self._embedder) if self._vectors else self._embedder.name
        return EmbeddedQuestion(index, vector, self._vectors, unrelated_cosine(self._embedder))

    async def maintain_index(self, stop: asyncio.Event) -> None:
        """Index and embed in the background what is not as it should be, until `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(ReindexingJob(self._pool, self._language).run(stop))
            if self._embedder and self._vectors:
                group.create_task(ExternalPassageEmbedding(self._pool, self._embedder, self._vectors).run(stop))
            elif self._embedder:
                group.create_task(PassageEmbedding(self._pool, self._embedder).run(stop))

    async def list(
        self, tenant_id: str, cursor: str | None = None, limit: int = 100, prefix: str = ""
    ) -> list[Document]:
        """Documents whose uri begins with `prefix`, by uri; `cursor` is the uri of the last one seen."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(_LIST_DOCUMENTS, tenant_id, cursor or "", limit, prefix)
        return [Document(**dict(row)) for row in rows]


def _check(upload: UploadedDocument) -> None:
    if not upload.uri.strip() or len(upload.uri) > MAX_URI_CHARACTERS or "\x00" in upload.uri:
        raise Invalid(f"a document's uri has 1 to {MAX_URI_CHARACTERS} characters, not {len(upload.uri)}")


def _hash_of(upload: UploadedDocument) -> bytes:
    digest = hashlib.sha256(READER_VERSION.encode())
    for part in (upload.title.encode(), upload.media_type.encode(), upload.content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


@contextmanager
def _refusing_hidden(uri: str) -> Iterator[None]:
    """Refuse a uri that belongs to a document which the caller may not read."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise Forbidden(f"{uri} is a document that you may not read: give this one another uri") from error


async def _get(connection: Connection, tenant_id: str, document_id: str) -> asyncpg.Record:
    row = await connection.fetchrow(_FIND_BY_ID, tenant_id, document_id)
    if row is None:
        raise no_such("document", document_id)
    return row


def _change(
    change: Literal["knowledge_document_replaced", "knowledge_document_removed"], row: asyncpg.Record
) -> DocumentChange:
    return DocumentChange(change, row["document_id"], row["uri"], row["title"], row["sha256"])


async def _find_same(connection: Connection, tenant_id: str, uri: str, content_hash: bytes) -> StoreResult | None:
    row = await connection.fetchrow(_SELECT_DOCUMENTS, tenant_id, uri)
    if row is None or row["content_hash"] != content_hash:
        return None
    return StoreResult(
        document_id=row["document_id"], uri=uri, title=row["title"], passages=row["passages"], unchanged=True
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """An upload, parsed and cut."""

    media_type: str
    title: str
    content_hash: bytes
    sha256: bytes
    size_bytes: int
    document: SplitDocument
    entry: DocumentIndexEntry
    skipped: tuple[str, ...]


def _read(upload: UploadedDocument, content_hash: bytes, default_language: str) -> _Read:
    media_type, parsed = parse_document(upload)
    title, document = _title_of(upload, parsed), split_into_passages(parsed.blocks)
    language = detect_language(document.text, default_language)
    entry = indexing.build_index_entry(title, document.pieces, language, content_hash)
    digest = hashlib.sha256(upload.content).digest()
    return _Read(media_type, title, content_hash, digest, len(upload.content), document, entry, parsed.skipped)


def _title_of(upload: UploadedDocument, parsed: ParsedDocument) -> str:
    title = upload.title.strip() or parsed.title or PurePosixPath(upload.uri).name or upload.uri
    return title[:MAX_TITLE_CHARACTERS]


def _passage(row: Row) -> Passage:
    return Passage(
        text=row["body"],
        source=Source(
            document_id=row["document_id"],
            title=_full_title(row["title"], row["heading"]),
            uri=row["uri"],
            passage_id=str(row["passage_no"]),
            start=row["start_offset"],
            end=row["end_offset"],
            place=row["place"],
            score=round(row["score"], 4),
        ),
        by_words=round(row.get("by_words", 0.0), 4),
        by_meaning=round(row["by_meaning"], 4) if "by_meaning" in row else None,
        by_reranker=round(row["by_reranker"], 4) if "by_reranker" in row else None,
    )


def _full_title(title: str, heading: str) -> str:
    """The document's title and the headings above the passage, without saying the same twice."""
    path = heading.removeprefix(title).removeprefix(HEADING_SEPARATOR)
    return f"{title}{HEADING_SEPARATOR}{path}" if path else title
