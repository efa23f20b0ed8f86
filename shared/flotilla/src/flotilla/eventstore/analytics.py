"""What tools and models did: calls, errors, latencies from the projection; tokens from the stored model calls."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from flotilla.postgres import Pool, tenant_transaction

Bucket: TypeAlias = Literal["hour", "day"]

# One row for all time, or one per hour or day where $4 says so.
_TOOLS = """
SELECT u.tool, u.agent, CASE WHEN $4::text IS NULL THEN NULL ELSE date_trunc($4, u.occurred_at, 'UTC') END AS since,
    count(*) AS calls, count(*) FILTER (WHERE NOT u.ok) AS errors,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY u.duration_ms) AS p50_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY u.duration_ms) AS p95_ms
FROM audit.tool_usage AS u
WHERE u.tenant_id = $1 AND ($2::timestamptz IS NULL OR u.occurred_at >= $2)
    AND ($3::text IS NULL OR u.session_id = $3)
GROUP BY 1, 2, 3 ORDER BY 3 NULLS FIRST, 1, 2
"""
_TOKENS = """
SELECT c.model, date_trunc($3, c.created_at, 'UTC') AS since, count(*) AS calls,
    sum(c.input_tokens)::bigint AS input_tokens, sum(c.output_tokens)::bigint AS output_tokens,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY c.duration_ms) AS p50_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY c.duration_ms) AS p95_ms
FROM flotilla.llm_calls AS c
WHERE c.tenant_id = $1 AND ($2::timestamptz IS NULL OR c.created_at >= $2)
GROUP BY 1, 2 ORDER BY 2, 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUsage:
    """One row of `GET /v1/analytics/tools`."""

    tool: str
    agent: str
    since: datetime | None
    """Start of the bucket; None when not asked for buckets."""
    calls: int
    errors: int
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTokens:
    """One row of `GET /v1/analytics/tokens`: one model, one day (or hour)."""

    model: str
    since: datetime
    """Start of the bucket, UTC."""
    calls: int
    input_tokens: int
    output_tokens: int
    p50_ms: float
    p95_ms: float


async def tool_usage(
    pool: Pool,
    tenant_id: str,
    *,
    since: datetime | None = None,
    session_id: str | None = None,
    bucket: Bucket | None = None,
) -> list[ToolUsage]:
    """Calls, errors and latency per tool and agent, of all results that are projected."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_TOOLS, tenant_id, since, session_id, bucket)
    return [ToolUsage(**dict(row)) for row in rows]


async def model_tokens(
    pool: Pool, tenant_id: str, *, since: datetime | None = None, bucket: Bucket = "day"
) -> list[ModelTokens]:
    """Tokens, calls and latency per model and day (or hour)."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_TOKENS, tenant_id, since, bucket)
    return [ModelTokens(**dict(row)) for row in rows]
