"""Exports a session's history with everything that proves it, as JSON lines, for auditors who trust nobody here.

    header   format, tenant, session; the lineage, root first: whose events, from which seq to which
    event    session, seq, hash (hex), body: the CloudEvent's JSON document as a string, character for character
    witness  the same, of a parent's events behind the prefix: no part of the history, but they lead to the checkpoint
             that signed the prefix. A parent goes on, and is signed at its head of then
    anchor   session, seq, hash, and the way into a signed checkpoint: statement, signature (base64), key_id, index,
             path
    end      how many events, witnesses and anchors there were, so that a cut file shows

`python -m flotilla.eventstore.verify_export FILE --public-key KEY` checks such a file.
"""

from base64 import b64encode
from collections.abc import AsyncIterator

import asyncpg
import msgspec

from flotilla.contracts.errors import RetryLater
from flotilla.contracts.ids import Clock, utc_now
from flotilla.eventstore.log import Segment, SessionLog
from flotilla.eventstore.proof import inclusion_path, split_leaves
from flotilla.postgres import Connection, Pool, tenant_transaction

FORMAT = "flotilla-audit-export/2"
_PAGE = 1000

_HEAD = "SELECT seq, parent_session_id FROM audit.session_heads WHERE tenant_id = $1 AND session_id = $2"
_EVENTS = """
SELECT seq, hash, body FROM audit.session_events
WHERE tenant_id = $1 AND session_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $5
"""
_ANCHORS = """
SELECT seq, hash, kafka_partition, number, leaf_index FROM audit.checkpoint_heads
WHERE tenant_id = $1 AND session_id = $2 AND seq <= $3 ORDER BY seq, number
"""
# Where a parent was signed next, at or behind the end of its prefix.
_SIGNED = "SELECT min(seq) FROM audit.checkpoint_heads WHERE tenant_id = $1 AND session_id = $2 AND seq >= $3"
_CHECKPOINT = "SELECT * FROM audit.checkpoints_after($1, $2, 1)"


async def export_session(
    pool: Pool, tenant_id: str, session_id: str, *, clock: Clock = utc_now
) -> AsyncIterator[bytes]:
    """The lines of one session's export, its parents' prefixes first: what is projected now.

    Raises:
        NotFound: the tenant has no such session.
        RetryLater: its parent's prefix is not projected yet.
    """
    lineage = await SessionLog(pool, tenant_id).lineage(session_id)
    segments = lineage[::-1]
    async with tenant_transaction(pool, tenant_id) as connection:
        parts = [await _part(connection, tenant_id, segment, session_id) for segment in segments]
    yield _line(
        kind="header",
        format=FORMAT,
        tenant=tenant_id,
        session=session_id,
        exported_at=clock(),
        segments=parts,
    )
    events = witnesses = anchors = 0
    for part in parts:
        async for line in _events(pool, tenant_id, part.session, part.after_seq, part.upto_seq, kind="event"):
            events += 1
            yield line
        async for line in _events(pool, tenant_id, part.session, part.upto_seq, part.signed_seq, kind="witness"):
            witnesses += 1
            yield line
        async for line in _anchors(pool, tenant_id, part):
            anchors += 1
            yield line
    yield _line(kind="end", events=events, witnesses=witnesses, anchors=anchors)


class _Part(msgspec.Struct, frozen=True):
    """What one session gives to the history, as the header says it."""

    session: str
    parent: str | None
    after_seq: int
    upto_seq: int
    signed_seq: int
    """Up to here its events are in the file, the last ones as witnesses."""


async def _part(connection: Connection, tenant_id: str, segment: Segment, session_id: str) -> _Part:
    head = await connection.fetchrow(_HEAD, tenant_id, segment.session_id)
    projected_seq = head["seq"] if head else segment.after_seq
    if segment.session_id != session_id and projected_seq < segment.upto_seq:
        raise RetryLater(f"session {segment.session_id}, its parent, is projected up to {projected_seq} only")
    upto_seq = min(segment.upto_seq, projected_seq)
    signed_seq = None
    if segment.session_id != session_id and upto_seq > segment.after_seq:
        signed_seq = await connection.fetchval(_SIGNED, tenant_id, segment.session_id, upto_seq)
    return _Part(
        segment.session_id,
        head["parent_session_id"] if head else None,
        segment.after_seq,
        upto_seq,
        upto_seq if signed_seq is None else int(signed_seq),
    )


async def _events(
    pool: Pool, tenant_id: str, session_id: str, after_seq: int, upto_seq: int, *, kind: str
) -> AsyncIterator[bytes]:
    seq = after_seq
    while True:
        async with tenant_transaction(pool, tenant_id) as connection:
            rows = await connection.fetch(_EVENTS, tenant_id, session_id, seq, upto_seq, _PAGE)
        if not rows:
            return
        for row in rows:
            yield _line(
                kind=kind,
                session=session_id,
                seq=row["seq"],
                hash=row["hash"].hex(),
                body=row["body"].decode(),
            )
        seq = rows[-1]["seq"]


async def _anchors(pool: Pool, tenant_id: str, part: _Part) -> AsyncIterator[bytes]:
    async with tenant_transaction(pool, tenant_id) as connection:
        for row in await connection.fetch(_ANCHORS, tenant_id, part.session, part.signed_seq):
            checkpoint = await connection.fetchrow(_CHECKPOINT, row["kafka_partition"], row["number"] - 1)
            if checkpoint is not None and checkpoint["number"] == row["number"]:
                yield _anchor(part.session, row, checkpoint)


def _anchor(session_id: str, row: asyncpg.Record, checkpoint: asyncpg.Record) -> bytes:
    leaves = split_leaves(checkpoint["leaves"])
    return _line(
        kind="anchor",
        session=session_id,
        seq=row["seq"],
        hash=row["hash"].hex(),
        index=row["leaf_index"],
        path=[node.hex() for node in inclusion_path(leaves, row["leaf_index"])],
        statement=checkpoint["statement"].decode(),
        signature=b64encode(checkpoint["signature"]).decode(),
        key_id=checkpoint["key_id"],
    )


def _line(**document: object) -> bytes:
    return msgspec.json.encode(document) + b"\n"
