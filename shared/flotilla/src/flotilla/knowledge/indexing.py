"""Writes a document's passages and their postings, in the caller's transaction.

What the index holds of a document is noted in `flotilla.indexed_documents`: enough to take exactly that out again,
whatever the analysis of today would make of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flotilla.knowledge.analysis import AnalysedPassage, analyse_passage, analysis_version
from flotilla.knowledge.documents import UnstoredPassage
from flotilla.knowledge.postings import BLOCK_SLOTS, pack, postings_without_slots
from flotilla.postgres import Connection

# Waits for the tenant's other writers.
_LOCK_KNOWLEDGE_BASES = """
INSERT INTO flotilla.knowledge_bases (tenant_id, passages) VALUES ($1, 0)
ON CONFLICT (tenant_id) DO UPDATE SET passages = knowledge_bases.passages
"""
_COUNT_PASSAGES = "UPDATE flotilla.knowledge_bases SET passages = passages + $2 WHERE tenant_id = $1"
_INSERT_PASSAGES = """
INSERT INTO flotilla.passages (tenant_id, document_id, ordinal, heading, start_offset, end_offset, body, place)
SELECT $1, $2, p.ordinal, p.heading, p.start_offset, p.end_offset, p.body, p.place
FROM unnest($3::int[], $4::text[], $5::int[], $6::int[], $7::text[], $8::text[])
     AS p (ordinal, heading, start_offset, end_offset, body, place)
ORDER BY p.ordinal
"""
_DELETE_PASSAGES = "DELETE FROM flotilla.passages WHERE tenant_id = $1 AND document_id = $2"
# Takes the next slots, and returns the first of them.
_COUNT_IN = """
UPDATE flotilla.knowledge_bases SET
    next_slot = next_slot + $2, indexed_passages = indexed_passages + $2, indexed_length = indexed_length + $3,
    languages = CASE WHEN $4 = ANY (languages) THEN languages ELSE languages || $4::text END
WHERE tenant_id = $1 RETURNING next_slot - $2
"""
_COUNT_OUT = """
UPDATE flotilla.knowledge_bases SET
    indexed_passages = indexed_passages - $2, indexed_length = indexed_length - $3
WHERE tenant_id = $1
"""
_INSERT_INDEXED_DOCUMENTS = """
INSERT INTO flotilla.indexed_documents
    (tenant_id, document_id, slot, passages, length, terms, analysis, content_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_DELETE_INDEXED_DOCUMENTS = """
DELETE FROM flotilla.indexed_documents WHERE tenant_id = $1 AND document_id = $2
RETURNING slot, passages, length, terms
"""
_ADD_POSTINGS = """
INSERT INTO flotilla.postings (tenant_id, term, block, postings)
SELECT $1, n.term, n.block, n.postings FROM unnest($2::text[], $3::bigint[], $4::bytea[]) AS n (term, block, postings)
ON CONFLICT (tenant_id, term, block) DO UPDATE SET postings = postings.postings || excluded.postings
"""
_READ_POSTINGS = """
SELECT term, block, postings FROM flotilla.postings
WHERE tenant_id = $1 AND term = ANY ($2::text[]) AND block BETWEEN $3 AND $4
"""
_REPLACE_POSTINGS = """
UPDATE flotilla.postings AS p SET postings = n.postings
FROM unnest($2::text[], $3::bigint[], $4::bytea[]) AS n (term, block, postings)
WHERE p.tenant_id = $1 AND p.term = n.term AND p.block = n.block
"""
_DELETE_POSTINGS = """
DELETE FROM flotilla.postings AS p USING unnest($2::text[], $3::bigint[]) AS n (term, block)
WHERE p.tenant_id = $1 AND p.term = n.term AND p.block = n.block
"""


@dataclass(frozen=True, slots=True)
class DocumentIndexEntry:
    """What the index holds of one document."""

    passages: list[AnalysedPassage]
    language: str
    content_hash: bytes

    @property
    def word_count(self) -> int:
        """The words of all passages."""
        return sum(passage.term_count for passage in self.passages)

    @property
    def distinct_terms(self) -> list[str]:
        """Each term once."""
        return sorted(frozenset[str]().union(*(passage.counts for passage in self.passages)))


def build_index_entry(
    title: str, pieces: Sequence[UnstoredPassage], language: str, content_hash: bytes
) -> DocumentIndexEntry:
    """Return what the index is to hold of a document: each passage with its title and headings, as one text."""
    texts = (f"{title}\n{piece.heading}\n{piece.text}" for piece in pieces)
    return DocumentIndexEntry([analyse_passage(text, language) for text in texts], language, content_hash)


async def lock(connection: Connection, tenant_id: str) -> None:
    """Wait until no other transaction writes this tenant's knowledge base."""
    await connection.execute(_LOCK_KNOWLEDGE_BASES, tenant_id)


async def insert_passages(
    connection: Connection,
    tenant_id: str,
    document_id: str,
    pieces: Sequence[UnstoredPassage],
    entry: DocumentIndexEntry,
) -> None:
    """Add the passages of a document that has none, and index them. The caller holds the lock."""
    await connection.execute(_COUNT_PASSAGES, tenant_id, len(pieces))
    await connection.execute(
        _INSERT_PASSAGES,
        tenant_id,
        document_id,
        list(range(len(pieces))),
        [piece.heading for piece in pieces],
        [piece.start for piece in pieces],
        [piece.end for piece in pieces],
        [piece.text for piece in pieces],
        [piece.place for piece in pieces],
    )
    await index_document(connection, tenant_id, document_id, entry)


async def remove_passages(connection: Connection, tenant_id: str, document_id: str, passages: int) -> None:
    """Take a document's passages out again. The caller holds the lock."""
    await remove_from_index(connection, tenant_id, document_id)
    await connection.execute(_DELETE_PASSAGES, tenant_id, document_id)
    await connection.execute(_COUNT_PASSAGES, tenant_id, -passages)


async def index_document(connection: Connection, tenant_id: str, document_id: str, entry: DocumentIndexEntry) -> None:
    """Index a document that is not in the index."""
    count, length = len(entry.passages), entry.word_count
    slot = await connection.fetchval(_COUNT_IN, tenant_id, count, length, entry.language)
    analysis = analysis_version(entry.language)
    await connection.execute(
        _INSERT_INDEXED_DOCUMENTS,
        tenant_id,
        document_id,
        slot,
        count,
        length,
        entry.distinct_terms,
        analysis,
        entry.content_hash,
    )
    blocks = sorted(pack(slot, entry.passages).items())
    await connection.execute(
        _ADD_POSTINGS,
        tenant_id,
        [term for (term, _), _ in blocks],
        [block for (_, block), _ in blocks],
        [packed for _, packed in blocks],
    )


async def remove_from_index(connection: Connection, tenant_id: str, document_id: str) -> None:
    """Take a document out of the index, if it is there."""
    row = await connection.fetchrow(_DELETE_INDEXED_DOCUMENTS, tenant_id, document_id)
    if row is None:
        return
    await connection.execute(_COUNT_OUT, tenant_id, row["passages"], row["length"])
    slots = range(row["slot"], row["slot"] + row["passages"])
    blocks = (slots.start // BLOCK_SLOTS, slots.stop // BLOCK_SLOTS)
    found = await connection.fetch(_READ_POSTINGS, tenant_id, row["terms"], *blocks)
    left = [(term, block, postings_without_slots(block, packed, slots)) for term, block, packed in found]
    kept = [one for one in left if one[2]]
    gone = [one for one in left if not one[2]]
    await connection.execute(_REPLACE_POSTINGS, tenant_id, *_columns(kept))
    await connection.execute(_DELETE_POSTINGS, tenant_id, *_columns(gone)[:2])


def _columns(rows: Sequence[tuple[str, int, bytes]]) -> tuple[list[str], list[int], list[bytes]]:
    return [term for term, _, _ in rows], [block for _, block, _ in rows], [packed for _, _, packed in rows]
