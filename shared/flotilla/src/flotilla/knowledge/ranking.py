"""Ranks passages by BM25, exactly, and chooses those that are worth showing of this and the ranking by meaning.

A search reads the whole posting lists of its terms and adds them up. Of what ranks best, passages that say nearly the
same are shown once, and a document gives no more than its share as long as others have something to say.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

from flotilla.knowledge.analysis import QueryTerm, query_terms
from flotilla.knowledge.fusion import Row, fuse_rankings
from flotilla.knowledge.meaning import EmbeddedQuestion, nearest_passages
from flotilla.knowledge.postings import PostingList, SlotRanges, best, blocks_by_term, decode_posting_blocks, idf
from flotilla.postgres import Connection

COMPOUNDING = frozenset(("da", "de", "fi", "hu", "nl", "no", "sv"))
"""Languages that write compounds as one word."""
_LAST = chr(0x10FFFF)
MIN_COMPOUNDED_CHARACTERS = 5
MAX_COMPOUND_BLOCKS = 200
MAX_QUERY_TERMS = 32
"""The rarest ones of a longer query."""
DEPTH = 10
"""For each passage that is asked for, how many of the best ranked are looked at."""
SAME_SHARE = 0.8
"""Passages that share this much of their pairs of words say the same."""

_SELECT_STATISTICS_KNOWLEDGE_BASES = """
SELECT indexed_passages AS passages, indexed_length AS length, languages FROM flotilla.knowledge_bases
WHERE tenant_id = $1 AND indexed_passages > 0
"""
_SELECT_RAREST_POSTINGS = """
SELECT term FROM flotilla.postings WHERE tenant_id = $1 AND term = ANY ($2::text[])
GROUP BY term ORDER BY sum(octet_length(postings)), term LIMIT $3
"""
# Of documents that the caller may not read, and of attachments of other sessions: as if they were not there.
_LEFT_OUT = "SELECT slot, passages FROM flotilla.slots_left_out($1)"
_SELECT_POSTINGS = (
    "SELECT term, block, postings FROM flotilla.postings WHERE tenant_id = $1 AND term = ANY ($2::text[])"
)
# The posting lists of words that begin like one that no passage has.
_SELECT_COMPOUNDS_POSTINGS = """
SELECT w.word, p.block, p.postings FROM unnest($2::text[]) AS w (word)
CROSS JOIN LATERAL (
    SELECT o.block, o.postings FROM flotilla.postings AS o
    WHERE o.tenant_id = $1 AND o.term > w.word AND o.term < w.word || $4
    ORDER BY o.term, o.block LIMIT $3) AS p
"""
_SELECT_PASSAGES_INDEXED_DOCUMENTS = """
SELECT p.passage_no, p.document_id, d.uri, d.title, p.heading, p.start_offset, p.end_offset, p.place, p.body, f.score
FROM unnest($2::bigint[], $3::float8[]) WITH ORDINALITY AS f (slot, score, place)
CROSS JOIN LATERAL (
    SELECT i.document_id, f.slot - i.slot AS ordinal FROM flotilla.indexed_documents AS i
    WHERE i.tenant_id = $1 AND i.slot <= f.slot AND i.passages > 0 ORDER BY i.slot DESC LIMIT 1) AS i
JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.document_id = i.document_id AND p.ordinal = i.ordinal
JOIN flotilla.documents AS d ON d.tenant_id = $1 AND d.document_id = i.document_id
ORDER BY f.place
"""


@dataclass(frozen=True, slots=True)
class RankingOptions:
    """What a search shows."""

    per_document: int = 1
    """Passages of one document, as long as other documents have a term of the question, too."""
    reranked: int = 50
    """The best passages that a reranker reads, where there is one."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a search is for."""

    query: str
    most: int
    """Of each ranking, the best passages."""
    session_id: str | None = None
    """Whose attachments are searched, too."""
    meant: EmbeddedQuestion | None = None
    """The question's embedding where the tenant's passages have theirs."""


@dataclass(frozen=True, slots=True)
class _Lists:
    """The postings of each term with its idf, and what all terms would weigh in one passage."""

    weighted: list[tuple[float, PostingList]]
    weight: float


async def ranked_passages(connection: Connection, tenant_id: str, wanted: SearchRequest) -> list[Row]:
    """Return the best rows by words and meaning, best first. Wants one snapshot for its statements."""
    rankings = [await rank_rows(connection, tenant_id, wanted.query, wanted.most, wanted.session_id)]
    if wanted.meant:
        rankings.append(await nearest_passages(connection, tenant_id, wanted.meant, wanted.most, wanted.session_id))
    return fuse_rankings(*rankings)


async def rank_rows(
    connection: Connection, tenant_id: str, query: str, most: int, session_id: str | None = None
) -> Sequence[Row]:
    """Return the `most` rows that rank highest. `score` is the share of the query's weight that the passage holds:
    about 1 when every term occurs once in a passage of normal length, at most 2.2."""
    statistics = await connection.fetchrow(_SELECT_STATISTICS_KNOWLEDGE_BASES, tenant_id)
    asked = query_terms(query, statistics["languages"]) if statistics else []
    if statistics is None or not asked:
        return []
    rarest = await _rarest(connection, tenant_id, asked)
    left_out = SlotRanges([(row[0], row[1]) for row in await connection.fetch(_LEFT_OUT, session_id)])
    compounds = not COMPOUNDING.isdisjoint(statistics["languages"])
    passages = statistics["passages"]
    lists = await _read(connection, tenant_id, rarest, passages, left_out, compounds=compounds)
    if not lists.weighted:
        return []
    scored = best(lists.weighted, statistics["length"] / passages, most)
    shares = [score / lists.weight for score in scored.scores]
    rows = await connection.fetch(_SELECT_PASSAGES_INDEXED_DOCUMENTS, tenant_id, scored.slots, shares)
    return [{**row, "by_words": row["score"]} for row in rows]


async def _rarest(connection: Connection, tenant_id: str, asked: list[QueryTerm]) -> list[QueryTerm]:
    if len(asked) <= MAX_QUERY_TERMS:
        return asked
    rows = await connection.fetch(_SELECT_RAREST_POSTINGS, tenant_id, _forms(asked), MAX_QUERY_TERMS)
    known = {row["term"] for row in rows}
    return sorted(asked, key=lambda term: known.isdisjoint(term.forms))[:MAX_QUERY_TERMS]


async def _read(
    connection: Connection,
    tenant_id: str,
    asked: Sequence[QueryTerm],
    passages: int,
    left_out: SlotRanges,
    *,
    compounds: bool,
) -> _Lists:
    rows = await connection.fetch(_SELECT_POSTINGS, tenant_id, _forms(asked))
    blocks = blocks_by_term((row[0], row[1], row[2]) for row in rows)
    if compounds and (absent := _absent(asked, blocks)):
        rows = await connection.fetch(_SELECT_COMPOUNDS_POSTINGS, tenant_id, absent, MAX_COMPOUND_BLOCKS, _LAST)
        blocks |= blocks_by_term((row[0], row[1], row[2]) for row in rows)
    weighted, weight = [], 0.0
    for term in asked:
        found = left_out.postings_outside(
            decode_posting_blocks([block for form in term.forms for block in blocks.get(form, ())])
        )
        holding = min(passages, len(found.slots))
        if holding:
            weighted.append((idf(passages, holding), found))
        if holding or not term.is_name:
            weight += idf(passages, holding)
    return _Lists(weighted, weight)


def _absent(asked: Iterable[QueryTerm], known: Container[str]) -> list[str]:
    """Return the words that no passage has and that are long enough to begin another one."""
    return [
        form
        for term in asked
        if not term.is_name and not any(form in known for form in term.forms)
        for form in term.forms
        if len(form) >= MIN_COMPOUNDED_CHARACTERS
    ]


def _forms(asked: Iterable[QueryTerm]) -> list[str]:
    return [form for term in asked for form in term.forms]


def choose_passages(rows: Iterable[Row], k: int, per_document: int) -> list[Row]:
    """Return the best `k`, less what repeats another, with at most `per_document` of one while there are others."""
    chosen: list[tuple[int, Row]] = []
    spare: list[tuple[int, Row]] = []
    taken: Counter[str] = Counter()
    for place, row in enumerate(_unlike(rows)):
        (chosen if taken[row["document_id"]] < per_document else spare).append((place, row))
        taken[row["document_id"]] += 1
        if len(chosen) == k:
            break
    return [row for _, row in sorted([*chosen, *spare[: k - len(chosen)]], key=itemgetter(0))]


def _unlike(rows: Iterable[Row]) -> Iterator[Row]:
    """Those that say something that none before them said."""
    seen: list[frozenset[tuple[str, ...]]] = []
    for row in rows:
        words = row["body"].split()
        pairs = frozenset(pairwise(words)) or frozenset([tuple(words)])
        if not any(len(pairs & other) >= SAME_SHARE * len(pairs | other) for other in seen):
            seen.append(pairs)
            yield row
