"""Exports a session's history with everything that proves it, as JSON lines, for auditors who trust nobody here.

    header   format, tenant, session; the lineage, root first: whose events, from which seq to which
    event    session, seq, hash (hex), body: the CloudEvent's JSON document as a string, character for character
    witness  the same, of a parent's events behind the prefix: no part of the history, but they lead to the checkpoint
             that signed the prefix. A parent goes on, and is signed at its head of then
    anchor   behind the event or witness that it signs: session, seq, hash, and the way into a signed checkpoint:
             index, path, statement, signature (base64), key_id. One per session, the newest: with an older one, the
             holder of the file could cut the history back to it
    inclusion behind an anchor: its entry in the tree of its partition's log, and the way to the root that a signed
             checkpoint has: index, path, checkpoint (a C2SP signed note with the cosignatures of witnesses)
    end      how many events, witnesses, anchors and inclusions there were, so that a cut file shows

`export_format` has the bytes; `python -m flotilla.audit.verify_export FILE --public-key KEY` checks such a file.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import asyncpg

from flotilla.audit.export_format import (
    EXPORT_FORMAT,
    Anchor,
    AnyLine,
    End,
    Event,
    Header,
    Inclusion,
    Part,
    Witness,
    encode_export_line,
)
from flotilla.audit.log_tiles import load_inclusion_proof, load_provable_tree
from flotilla.audit.proof import merkle_inclusion_path, split_concatenated_leaves
from flotilla.contracts.errors import RetryLater
from flotilla.eventstore.log import LineageSegment, SessionLog
from flotilla.eventstore.sessions import session_archived_error
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Connection, Pool, tenant_transaction

_PAGE_SIZE = 1000

_SELECT_PROJECTED_HEAD = "SELECT seq, archived_seq FROM audit.session_heads WHERE tenant_id = $1 AND session_id = $2"
_SELECT_EVENTS = """
SELECT seq, hash, body FROM audit.session_events
WHERE tenant_id = $1 AND session_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $5
"""
_SELECT_ANCHOR = """
SELECT seq, hash, kafka_partition, number, leaf_index FROM audit.standing_heads
WHERE tenant_id = $1 AND session_id = $2 AND seq <= $3 ORDER BY seq DESC, number LIMIT 1
"""
# Where a parent was signed next, at or behind what has to be proven of it.
_SELECT_SIGNED_SEQ = "SELECT min(seq) FROM audit.standing_heads WHERE tenant_id = $1 AND session_id = $2 AND seq >= $3"
_SELECT_LOG_INDEX = """
SELECT log_index, number FROM audit.checkpoint_heads
WHERE tenant_id = $1 AND session_id = $2 AND seq = $3 AND hash = $4 AND log_index IS NOT NULL ORDER BY number LIMIT 1
"""
_SELECT_CHECKPOINT = "SELECT * FROM audit.checkpoints_after($1, $2, 1)"


async def export_session(pool: Pool, tenant_id: str, session_id: str) -> AsyncIterator[bytes]:
    """The lines of one session's export, its parents' prefixes first: what is projected now.

    Raises:
        NotFound: the tenant has no such session.
        SessionArchived: its events, or its parent's, are in an archive.
        RetryLater: its parent's prefix is not projected yet.
    """
    lineage = await SessionLog(pool, tenant_id).lineage(session_id)
    async with tenant_transaction(pool, tenant_id) as connection:
        parts = [await _load_part(connection, tenant_id, *link) for link in _segments_with_parents(lineage)]
    counts: Counter[type[AnyLine]] = Counter()
    yield encode_export_line(Header(format=EXPORT_FORMAT, tenant=tenant_id, session=session_id, segments=parts))
    for part in parts:
        async for line in _lines_of_part(pool, tenant_id, part):
            counts[type(line)] += 1
            yield encode_export_line(line)
    yield encode_export_line(
        End(
            events=counts[Event],
            witnesses=counts[Witness],
            anchors=counts[Anchor],
            inclusions=counts[Inclusion],
        )
    )


def _segments_with_parents(lineage: Sequence[LineageSegment]) -> list[tuple[LineageSegment, str | None, bool]]:
    """Each segment with its parent's id and whether it is the session's own, root first.

    A fork at 0 has nothing of its parents: the chain's start names the parent, and the lineage ends there.
    """
    parents = [segment.session_id for segment in lineage[1:]]
    links = [
        (segment, parent, number == 0)
        for number, (segment, parent) in enumerate(zip(lineage, [*parents, None], strict=True))
        if number == 0 or segment.upto_seq > 0
    ]
    return links[::-1]


async def _load_part(
    connection: Connection, tenant_id: str, segment: LineageSegment, parent: str | None, own: bool
) -> Part:
    projected = await connection.fetchrow(_SELECT_PROJECTED_HEAD, tenant_id, segment.session_id)
    projected_seq = segment.after_seq if projected is None else int(projected["seq"])
    if projected is not None and projected["archived_seq"]:
        raise session_archived_error(segment.session_id, projected["archived_seq"])
    if not own and projected_seq < segment.upto_seq:
        raise RetryLater(
            f"session {segment.session_id}, its parent, is projected up to {projected_seq} only: try again in a moment"
        )
    upto_seq = min(segment.upto_seq, projected_seq)
    signed_seq = None
    if not own:  # with no event in the history, its first own event proves where it was forked
        due_seq = max(upto_seq, segment.after_seq + 1)
        signed_seq = await connection.fetchval(_SELECT_SIGNED_SEQ, tenant_id, segment.session_id, due_seq)
    return Part(
        session=segment.session_id,
        parent=parent,
        after_seq=segment.after_seq,
        upto_seq=upto_seq,
        signed_seq=max(upto_seq, segment.after_seq) if signed_seq is None else int(signed_seq),
    )


async def _lines_of_part(pool: Pool, tenant_id: str, part: Part) -> AsyncIterator[Event | Witness | Anchor | Inclusion]:
    """The part's events and witnesses, and behind the newest signed one its anchor."""
    async with tenant_transaction(pool, tenant_id) as connection:
        anchor = await _load_anchor(connection, tenant_id, part)
        inclusion = None if anchor is None else await _load_inclusion(connection, tenant_id, anchor)
    seq = part.after_seq
    while True:
        async with tenant_transaction(pool, tenant_id) as connection:
            rows = await connection.fetch(_SELECT_EVENTS, tenant_id, part.session, seq, part.signed_seq, _PAGE_SIZE)
        if not rows:
            return
        for row in rows:
            seq = row["seq"]
            kind = Witness if seq >= part.first_seq_after_history else Event
            yield kind(session=part.session, seq=seq, hash=row["hash"].hex(), body=row["body"].decode())
            if anchor is not None and anchor.seq == seq:
                yield anchor
                if inclusion is not None:
                    yield inclusion


async def _load_anchor(connection: Connection, tenant_id: str, part: Part) -> Anchor | None:
    row = await connection.fetchrow(_SELECT_ANCHOR, tenant_id, part.session, part.signed_seq)
    if row is None:
        return None
    checkpoint = await connection.fetchrow(_SELECT_CHECKPOINT, row["kafka_partition"], row["number"] - 1)
    if checkpoint is None or checkpoint["number"] != row["number"]:
        return None
    return _make_anchor_line(part.session, row, checkpoint)


def _make_anchor_line(session_id: str, row: asyncpg.Record, checkpoint: asyncpg.Record) -> Anchor:
    path = merkle_inclusion_path(split_concatenated_leaves(checkpoint["leaves"]), row["leaf_index"])
    return Anchor(
        session=session_id,
        seq=row["seq"],
        hash=row["hash"].hex(),
        index=row["leaf_index"],
        path=[node.hex() for node in path],
        statement=checkpoint["statement"].decode(),
        signature=checkpoint["signature"],
        key_id=checkpoint["key_id"],
    )


async def _load_inclusion(connection: Connection, tenant_id: str, anchor: Anchor) -> Inclusion | None:
    """Where the anchor's event is in the tree of its partition; None if an older version anchored it."""
    place = (tenant_id, anchor.session, anchor.seq, bytes.fromhex(anchor.hash))
    partition = lane_of_session(tenant_id, anchor.session)
    logged = await connection.fetchrow(_SELECT_LOG_INDEX, *place)
    if logged is None or (tree := await load_provable_tree(connection, partition, logged["number"])) is None:
        return None
    path = await load_inclusion_proof(connection, partition, logged["log_index"], tree.size)
    return Inclusion(
        session=anchor.session,
        seq=anchor.seq,
        index=logged["log_index"],
        path=[node.hex() for node in path],
        checkpoint=tree.note.decode(),
    )
