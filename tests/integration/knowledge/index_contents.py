"""The index read back: which passage has which term how often."""

from typing import TypeAlias

from flotilla.knowledge.analysis import analyse_passage
from flotilla.knowledge.postings import decode_posting_blocks
from flotilla.postgres import Connection

Contents: TypeAlias = set[tuple[str, int, str, int, int]]
"""Document, ordinal of the passage, term, how often it occurs, terms of the passage."""

_POSTINGS = "SELECT term, block, postings FROM flotilla.postings"
_ENTRIES = "SELECT document_id, slot, passages FROM flotilla.indexed_documents"
_PASSAGES = """
SELECT p.document_id, p.ordinal, concat_ws(E'\\n', d.title, p.heading, p.body) AS text,
       split_part(i.analysis, '/', 2) AS language
FROM flotilla.passages AS p
JOIN flotilla.documents AS d USING (tenant_id, document_id)
JOIN flotilla.indexed_documents AS i USING (tenant_id, document_id)
"""


async def postings(connection: Connection) -> Contents:
    """What the posting lists of the connection's tenant say."""
    at = {
        row["slot"] + ordinal: (row["document_id"], ordinal)
        for row in await connection.fetch(_ENTRIES)
        for ordinal in range(row["passages"])
    }
    found: Contents = set()
    for term, block, packed in await connection.fetch(_POSTINGS):
        one = decode_posting_blocks([(block, packed)])
        for slot, count, length in zip(one.slots, one.counts, one.lengths, strict=True):
            found.add((*at[int(slot)], term, int(count), int(length)))
    return found


async def analysed_passages(connection: Connection) -> Contents:
    """What the passages of the connection's tenant contain."""
    found: Contents = set()
    for document_id, ordinal, text, language in await connection.fetch(_PASSAGES):
        passage = analyse_passage(text, language)
        found |= {(document_id, ordinal, term, count, passage.term_count) for term, count in passage.counts.items()}
    return found
