"""Earlier turns of a session, for the prompt: forks see their parent's prefix, rollbacks hide what they undid.

Read from `flotilla.interactions`, which is written with each answer, so that a run never waits for the projection.
"""

from collections.abc import Iterator, Mapping

from flotilla.contracts.tasks import Turn
from flotilla.encryption.tables import INTERACTIONS
from flotilla.postgres import Pool, open_rows, tenant_transaction

MAX_PROMPT_TURNS = 10
MAX_PROMPT_TURNS_CHARS = 8_000

# The session and the prefixes it continues, each with its stretch of sequence numbers, and the rollbacks in them.
_SELECT_LINEAGE = """
WITH RECURSIVE lineage AS (
    SELECT session_id, parent_session_id, coalesce(forked_at_seq, 0) AS after_seq, head_seq AS upto_seq
    FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = $2
    UNION ALL
    SELECT p.session_id, p.parent_session_id, coalesce(p.forked_at_seq, 0), least(l.after_seq, l.upto_seq)
    FROM lineage AS l JOIN flotilla.sessions AS p ON p.tenant_id = $1 AND p.session_id = l.parent_session_id
)
SELECT l.session_id, l.after_seq, l.upto_seq, r.seq, r.to_seq
FROM lineage AS l LEFT JOIN flotilla.session_rollbacks AS r
    ON r.tenant_id = $1 AND r.session_id = l.session_id AND r.seq > l.after_seq AND r.seq <= l.upto_seq
"""
# The newest answers within the stretches that count, each of its own session.
_SELECT_TURNS = """
SELECT i.interaction_id, i.session_id, i.query, i.answer
FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS s (session_id, after_seq, upto_seq)
JOIN flotilla.interactions AS i ON i.tenant_id = $1 AND i.session_id = s.session_id
    AND i.message_seq > s.after_seq AND i.message_seq <= s.upto_seq
ORDER BY i.message_seq DESC LIMIT $5
"""


async def load_earlier_turns(
    pool: Pool, tenant_id: str, session_id: str, limit: int = MAX_PROMPT_TURNS, *, before_seq: int | None = None
) -> list[Turn]:
    """The session's last turns, oldest first: at most `limit` and about 8,000 characters; as they were before event
    `before_seq`, if that is given."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_SELECT_LINEAGE, tenant_id, session_id)
        segments = {row["session_id"]: (row["after_seq"], row["upto_seq"]) for row in rows}
        head_seq = max((upto for _, upto in segments.values()), default=0)
        if before_seq is not None:
            head_seq = min(head_seq, before_seq - 1)
        rollbacks = {row["seq"]: row["to_seq"] for row in rows if row["seq"] is not None and row["seq"] <= head_seq}
        parts = [
            (session, max(after, first), min(upto, last))
            for first, last in effective_ranges_newest_first(head_seq, rollbacks)
            for session, (after, upto) in segments.items()
        ]
        sessions, afters, uptos = ([part[n] for part in parts] for n in range(3))
        rows = await connection.fetch(_SELECT_TURNS, tenant_id, sessions, afters, uptos, limit)
        found = await open_rows(connection, tenant_id, INTERACTIONS, rows)
    return newest_turns_within_budget([Turn(query=row["query"], answer=row["answer"]) for row in found])


def effective_ranges_newest_first(seq: int, rollbacks: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """The stretches (after, up to) of events that count at `seq`, newest first.

    The state after a rollback is the state at its target, which may itself lie behind another rollback.
    """
    points = sorted(rollbacks, reverse=True)
    while seq > 0:
        last = next((point for point in points if point <= seq), 0)
        if last < seq:
            yield last, seq
        seq = rollbacks[last] if last else 0


def newest_turns_within_budget(newest_first: list[Turn]) -> list[Turn]:
    """Return as many of the newest turns as fit into about 8,000 characters, oldest first."""
    kept: list[Turn] = []
    left = MAX_PROMPT_TURNS_CHARS
    for turn in newest_first:
        left -= len(turn.query) + len(turn.answer)
        if left < 0:
            break
        kept.append(turn)
    kept.reverse()
    return kept
