"""Analytics over the projection and the stored model calls."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

from flotilla.contracts.ids import utc_now
from flotilla.postgres import tenant_transaction
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.analytics import TokenAnalytics, TokenUsageOfDay, ToolAnalytics, ToolUsage
from gateway.schemas.common import ID_PATTERN
from gateway.schemas.spend import Spend
from gateway.services import Caller, Wired
from gateway.spend import By, sum_spend

router = guarded_router("analytics")
DEFAULT_SPAN = timedelta(days=30)
Since = Annotated[
    AwareDatetime | None, Query(description="From this moment on, with its offset; by default the last 30 days.")
]
_SELECT_TOOLS_TOOL_USAGE = """
SELECT tool, count(*) AS calls, count(*) FILTER (WHERE NOT ok) AS errors,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms
FROM audit.tool_usage
WHERE tenant_id = $1 AND occurred_at >= $2 AND ($3::text IS NULL OR session_id = $3)
GROUP BY tool ORDER BY calls DESC, tool LIMIT 1000
"""
_SELECT_TOKENS_LLM_CALLS = """
SELECT model, (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS calls,
    sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens
FROM flotilla.llm_calls
WHERE tenant_id = $1 AND created_at >= $2
GROUP BY model, day ORDER BY day DESC, model LIMIT 10000
"""


@router.get("/v1/analytics/tools", response_model=ToolAnalytics, responses=documented_errors())
@allow(EVERYONE)
async def tools(
    services: Wired,
    caller: Caller,
    since: Since = None,
    session_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only of this session.")] = None,
) -> ToolAnalytics:
    """Per tool: calls, errors, median and 95th percentile of the duration."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await connection.fetch(_SELECT_TOOLS_TOOL_USAGE, caller.tenant_id, _from(since), session_id)
    return ToolAnalytics(tools=[ToolUsage.model_validate(dict(row)) for row in rows])


@router.get("/v1/analytics/tokens", response_model=TokenAnalytics, responses=documented_errors())
@allow(EVERYONE)
async def tokens(services: Wired, caller: Caller, since: Since = None) -> TokenAnalytics:
    """Tokens per model and day."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await connection.fetch(_SELECT_TOKENS_LLM_CALLS, caller.tenant_id, _from(since))
    return TokenAnalytics(tokens=[TokenUsageOfDay.model_validate(dict(row)) for row in rows])


@router.get("/v1/spend", response_model=Spend, responses=documented_errors())
@allow(OPERATORS)
async def spend(
    services: Wired,
    caller: Caller,
    by: Annotated[By, Query(description="What to sum up by.")] = "day",
    since: Since = None,
    run_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only of this run.")] = None,
) -> Spend:
    """What model calls cost, at the agents' price tables, by day, model, agent, person, service or run."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return Spend(spend=await sum_spend(connection, caller.tenant_id, by, _from(since), run_id))


def _from(since: datetime | None) -> datetime:
    return since if since is not None else utc_now() - DEFAULT_SPAN
