"""`audit verify`: shows that a history is the one that was committed, or names the first event that is not.

Three witnesses have to agree: the hash chain beside the events, the signed checkpoints, and Kafka's own copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import asyncpg

from flotilla.audit.chain import ChainChecker, ChainedEvent, ChainProblem, ExpectedChain
from flotilla.audit.checkpoints import CheckpointFindings, check_checkpoints
from flotilla.audit.event_copy import sql_without_ciphertext
from flotilla.audit.kafka_witness import KafkaWitness
from flotilla.audit.proof import HistoryRewind, session_head_leaf
from flotilla.config.signing import PublicKeys
from flotilla.contracts.errors import NotFound
from flotilla.eventstore.log import LineageSegment, SessionLog
from flotilla.kafka.session_log import KafkaEventLog
from flotilla.postgres import Connection, Pool, tenant_transaction

_PAGE_SIZE = 2000
_NO_UPPER_SEQ = 2**62

_SELECT_SESSIONS = """
SELECT session_id FROM audit.session_heads WHERE tenant_id = $1
UNION SELECT session_id FROM audit.checkpoint_heads WHERE tenant_id = $1 ORDER BY 1
"""
_SELECT_IS_SESSION_KNOWN = "SELECT 1 FROM audit.session_heads WHERE tenant_id = $1 AND session_id = $2"
_SELECT_ANCHORS = """
SELECT seq, hash, kafka_partition, number, leaf_index FROM audit.standing_heads
WHERE tenant_id = $1 AND session_id = $2 ORDER BY number
"""
# What people decided about the session's history; each is a leaf of the checkpoint that signed it.
_SELECT_REWINDS = """
SELECT from_seq, base_hash, old_seq, old_hash, kafka_partition, number, leaf_index FROM audit.rewinds
WHERE tenant_id = $1 AND session_id = $2 AND number IS NOT NULL ORDER BY number
"""
# The first checkpoint that vouches for everything up to an event.
_SELECT_SIGNED_SEQ = "SELECT min(seq) FROM audit.standing_heads WHERE tenant_id = $1 AND session_id = $2 AND seq >= $3"
# Who its parent is, as the session's own row and as its chain's head say.
_SELECT_SESSION_ORIGIN = """
SELECT s.session_id IS NOT NULL AS has_session, s.parent_session_id, coalesce(s.forked_at_seq, 0) AS after_seq,
    h.session_id IS NOT NULL AS has_head, h.seq, h.hash, h.first_seq, h.parent_session_id AS head_parent,
    h.archived_seq, h.archived_hash
FROM (SELECT $2::text AS session_id) AS w
LEFT JOIN flotilla.sessions AS s ON s.tenant_id = $1 AND s.session_id = w.session_id
LEFT JOIN audit.session_heads AS h ON h.tenant_id = $1 AND h.session_id = w.session_id
"""
_SELECT_RECORDED_ARCHIVES = "SELECT session_id, seq, hash FROM audit.recorded_archives($1, $2)"
# The JSON copy is compared where the database could make one. Copies are without ciphertext; older ones have it.
_SELECT_EVENTS = f"""
SELECT seq, hash, body, CASE WHEN event IS NULL THEN true ELSE (
    SELECT {sql_without_ciphertext("event")} = {sql_without_ciphertext("recorded")}
    FROM (SELECT convert_from(body, 'UTF8')::jsonb AS recorded OFFSET 0) AS b) END AS same_copy
FROM audit.session_events
WHERE tenant_id = $1 AND session_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $5
"""  # noqa: S608 - constants
# Of kinds that their sources may not write: the audit consumer keeps them out of the chain until a person looked.
_SELECT_FORBIDDEN = """
SELECT session_id, seq, detail FROM audit.parked_events
WHERE tenant_id = $1 AND reason = 'forbidden' AND ($2::text[] IS NULL OR session_id = ANY($2)) ORDER BY kafka_offset
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionVerdict:
    """What was found of one session's own events."""

    session_id: str
    events: int
    verified_seq: int
    """The chain is good up to here."""
    anchored_seq: int
    """Up to here a signed checkpoint vouches for it; what is newer waits for the next one."""
    archived_seq: int = 0
    """Up to here its events are in an archive: a signed checkpoint has the hash of the last one, and the audit session
    says who archived them. The file has the rest of the proof."""
    problem: ChainProblem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer of `GET /v1/audit/verify`."""

    ok: bool
    sessions: list[SessionVerdict]
    """One per session; for one session, its own and its parents', these up to the checkpoint that signed the prefix."""
    checkpoints: int
    signatures_checked: bool
    kafka_checked: bool
    problems: list[ChainProblem] = field(default_factory=list)
    """Of all sessions and checkpoints."""


class HistoryVerifier:
    """Verifies the histories of one tenant. Without `keys` or `kafka` these witnesses are not heard.

    Unless `whole_tenant`, Kafka is asked about those sessions only that the transaction's viewer may read.
    """

    def __init__(
        self,
        pool: Pool,
        tenant_id: str,
        keys: PublicKeys | None = None,
        kafka: KafkaEventLog | None = None,
        *,
        whole_tenant: bool = True,
    ) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._keys = keys
        self._kafka = kafka
        self._whole_tenant = whole_tenant

    async def verify_sessions(self, session_id: str | None = None) -> Verdict:
        """Verifies one session with its lineage, or all sessions of the tenant.

        Raises:
            NotFound: the tenant has no such session.
            RetryLater: Kafka does not answer.
        """
        copies = await self._kafka.read_checkpoints() if self._kafka else None
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            checkpoints = await check_checkpoints(connection, self._keys, copies)
        if self._kafka and checkpoints.unseen:
            checkpoints.compare_with_kafka_copies(await self._kafka.read_checkpoints())
        segments = await self._load_segments(session_id)
        witnessed = await self._kafka_problems(None if session_id is None and self._whole_tenant else segments)
        recorded = await self._load_recorded_archives(session_id if len(segments) == 1 else None)
        verdicts = [await self._verify_segment(segment, checkpoints, witnessed, recorded) for segment in segments]
        # Sessions of which only Kafka knows.
        verdicts += [
            SessionVerdict(session_id=lost, events=0, verified_seq=0, anchored_seq=0, problem=problem)
            for lost, problem in witnessed.items()
            if lost not in {segment.session_id for segment in segments}
        ]
        problems = checkpoints.problems + [verdict.problem for verdict in verdicts if verdict.problem]
        problems += await self._load_forbidden_events(
            None if session_id is None else [one.session_id for one in segments]
        )
        return Verdict(
            ok=not problems,
            sessions=verdicts,
            checkpoints=checkpoints.checked,
            signatures_checked=self._keys is not None,
            kafka_checked=self._kafka is not None,
            problems=problems,
        )

    async def _load_recorded_archives(self, session_id: str | None) -> set[tuple[str, int, str]]:
        """What the audit session says was archived: session, newest event, and its hash (hex)."""
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            return {
                tuple(row) for row in await connection.fetch(_SELECT_RECORDED_ARCHIVES, self._tenant_id, session_id)
            }

    async def _load_forbidden_events(self, session_ids: list[str] | None) -> list[ChainProblem]:
        """The parked events that nobody may have written; None looks at all sessions."""
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            rows = await connection.fetch(_SELECT_FORBIDDEN, self._tenant_id, session_ids)
        return [
            ChainProblem(
                kind="forbidden", detail=f"parked: {row['detail']}", session_id=row["session_id"], seq=row["seq"]
            )
            for row in rows
        ]

    async def _load_segments(self, session_id: str | None) -> list[LineageSegment]:
        """What is to be looked at: the lineage of one session, or every session's own events."""
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            if session_id is None:
                rows = await connection.fetch(_SELECT_SESSIONS, self._tenant_id)
                return [LineageSegment(row["session_id"], 0, _NO_UPPER_SEQ) for row in rows]
            projected = await connection.fetchval(_SELECT_IS_SESSION_KNOWN, self._tenant_id, session_id)
        try:
            own, *prefixes = await SessionLog(self._pool, self._tenant_id).lineage(session_id)
        except NotFound:
            if projected is None:
                raise
            return [LineageSegment(session_id, 0, _NO_UPPER_SEQ)]
        parents = [await self._extend_to_signed_checkpoint(part) for part in prefixes if part.upto_seq > 0]
        return [LineageSegment(own.session_id, own.after_seq, _NO_UPPER_SEQ), *parents]

    async def _extend_to_signed_checkpoint(self, prefix: LineageSegment) -> LineageSegment:
        """The prefix up to the checkpoint that signed it: a parent goes on, and is signed at its head of then.

        A prefix alone could be rewritten with all its hashes; the next signed hash of its chain would not fit.
        """
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            signed_seq = await connection.fetchval(
                _SELECT_SIGNED_SEQ, self._tenant_id, prefix.session_id, prefix.upto_seq
            )
        return prefix if signed_seq is None else replace(prefix, upto_seq=int(signed_seq))

    async def _kafka_problems(self, segments: Sequence[LineageSegment] | None) -> dict[str, ChainProblem]:
        """What Kafka says against the projection, by session; None looks at all."""
        if self._kafka is None:
            return {}
        witness = KafkaWitness(self._pool, self._tenant_id, self._kafka)
        return await (witness.check_all_sessions() if segments is None else witness.check_sessions(segments))

    async def _verify_segment(
        self,
        segment: LineageSegment,
        checkpoints: CheckpointFindings,
        witnessed: dict[str, ChainProblem],
        recorded: set[tuple[str, int, str]],
    ) -> SessionVerdict:
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            anchors = await connection.fetch(_SELECT_ANCHORS, self._tenant_id, segment.session_id)
            origin = await connection.fetchrow(_SELECT_SESSION_ORIGIN, self._tenant_id, segment.session_id)
            assert origin is not None  # noqa: S101 - the statement always gives one row
            check = ChainChecker(self._expected_chain(segment.session_id, origin, anchors))
            rewinds = await connection.fetch(_SELECT_REWINDS, self._tenant_id, segment.session_id)
            first = (
                _lineage_problem(segment.session_id, origin)
                or _archive_problem(segment.session_id, origin, recorded)
                or self._find_forged_anchor(segment, anchors, checkpoints)
                or self._find_forged_rewind(segment, rewinds, checkpoints)
            )
            copy = await self._check_stored_events(connection, segment, origin, check)
        check.check_end_of_chain(segment.upto_seq)
        found = check.problem or copy or first or _head_problem(segment, origin, check)
        return SessionVerdict(
            session_id=segment.session_id,
            events=check.events,
            verified_seq=check.last_seq,
            anchored_seq=check.anchored_seq,
            archived_seq=origin["archived_seq"] or 0,
            problem=_combine_chain_and_kafka_findings(found, witnessed.get(segment.session_id)),
        )

    def _expected_chain(
        self, session_id: str, origin: asyncpg.Record, anchors: Sequence[asyncpg.Record]
    ) -> ExpectedChain:
        by_seq = {row["seq"]: row["hash"] for row in anchors}
        archived = (origin["archived_seq"], origin["archived_hash"]) if origin["archived_seq"] else None
        parent, after_seq = origin["parent_session_id"], origin["after_seq"]
        if origin["has_head"] and not origin["has_session"]:
            parent, after_seq = origin["head_parent"], origin["first_seq"] - 1
        return ExpectedChain(self._tenant_id, session_id, parent, after_seq, by_seq, archived)

    async def _check_stored_events(
        self, connection: Connection, segment: LineageSegment, origin: asyncpg.Record, check: ChainChecker
    ) -> ChainProblem | None:
        """Feeds the check; returns the first event whose JSON copy is not its bytes."""
        copy: ChainProblem | None = None
        seq, upto = 0, min(segment.upto_seq, origin["seq"] if origin["has_head"] else _NO_UPPER_SEQ)
        while rows := await connection.fetch(
            _SELECT_EVENTS, self._tenant_id, segment.session_id, seq, upto, _PAGE_SIZE
        ):
            check.check_events(ChainedEvent(row["seq"], row["hash"], row["body"]) for row in rows)
            differing = [row["seq"] for row in rows if not row["same_copy"]]
            if differing and copy is None:
                detail = "its JSON copy is not what its bytes say"
                copy = ChainProblem(kind="copy", detail=detail, session_id=segment.session_id, seq=differing[0])
            seq = rows[-1]["seq"]
        return copy

    def _find_forged_rewind(
        self, segment: LineageSegment, rewinds: Sequence[asyncpg.Record], checkpoints: CheckpointFindings
    ) -> ChainProblem | None:
        for row in rewinds:
            rewind = HistoryRewind(
                tenant_id=self._tenant_id,
                session_id=segment.session_id,
                from_seq=row["from_seq"],
                base=row["base_hash"],
                old_seq=row["old_seq"],
                old_hash=row["old_hash"],
            )
            leaves = checkpoints.leaves.get((row["kafka_partition"], row["number"]))
            if leaves is not None and leaves[row["leaf_index"] : row["leaf_index"] + 1] != [rewind.to_merkle_leaf()]:
                detail = f"checkpoint {row['number']} of partition {row['kafka_partition']} signed no such decision"
                return ChainProblem(kind="rewritten", detail=detail, session_id=segment.session_id, seq=row["from_seq"])
        return None

    def _find_forged_anchor(
        self, segment: LineageSegment, anchors: Sequence[asyncpg.Record], checkpoints: CheckpointFindings
    ) -> ChainProblem | None:
        for row in anchors:
            leaves = checkpoints.leaves.get((row["kafka_partition"], row["number"]))
            leaf = session_head_leaf(self._tenant_id, segment.session_id, row["seq"], row["hash"])
            if leaves is not None and (row["leaf_index"] >= len(leaves) or leaves[row["leaf_index"]] != leaf):
                detail = f"checkpoint {row['number']} of partition {row['kafka_partition']} signed another hash for it"
                return ChainProblem(kind="rewritten", detail=detail, session_id=segment.session_id, seq=row["seq"])
        return None


def _lineage_problem(session_id: str, origin: asyncpg.Record) -> ChainProblem | None:
    if not (origin["has_session"] and origin["has_head"]):
        return None
    if (origin["parent_session_id"], origin["after_seq"]) == (origin["head_parent"], origin["first_seq"] - 1):
        return None
    detail = (
        f"its row names parent {origin['parent_session_id']} at {origin['after_seq']}, "
        f"its chain {origin['head_parent']} at {origin['first_seq'] - 1}"
    )
    return ChainProblem(kind="lineage", detail=detail, session_id=session_id, seq=origin["first_seq"])


def _archive_problem(
    session_id: str, origin: asyncpg.Record, recorded: set[tuple[str, int, str]]
) -> ChainProblem | None:
    """Events that are said to be archived, and nobody recorded it: they were taken away."""
    seq = origin["archived_seq"]
    if not seq or (session_id, seq, origin["archived_hash"].hex()) in recorded:
        return None
    detail = f"events up to {seq} are missing, and no event of the audit session says that they were archived"
    return ChainProblem(kind="truncated", detail=detail, session_id=session_id, seq=seq)


def _head_problem(segment: LineageSegment, origin: asyncpg.Record, check: ChainChecker) -> ChainProblem | None:
    if not origin["has_head"]:
        if not check.events:
            return None
        return ChainProblem(
            kind="head", detail="its head row is missing", session_id=segment.session_id, seq=check.last_seq
        )
    if segment.upto_seq < origin["seq"]:
        return None
    if origin["seq"] > check.last_seq:
        detail = f"its head row stands at {origin['seq']}, but the events end at {check.last_seq}"
        return ChainProblem(kind="truncated", detail=detail, session_id=segment.session_id, seq=check.last_seq + 1)
    if origin["hash"] != check.last_hash:
        detail = "its head row has another hash"
        return ChainProblem(kind="head", detail=detail, session_id=segment.session_id, seq=check.last_seq)
    return None


def _combine_chain_and_kafka_findings(
    found: ChainProblem | None, witnessed: ChainProblem | None
) -> ChainProblem | None:
    """Kafka names the first bad event exactly; the chain can only say where it breaks."""
    if witnessed is None:
        return found
    if (found is None or found.kind == "rewritten") and witnessed.kind in {"edited", "swapped"}:
        detail = f"{witnessed.detail}; the chain agrees with itself, so it was rewritten from here on"
        return replace(witnessed, kind="rewritten", detail=detail)
    return witnessed
