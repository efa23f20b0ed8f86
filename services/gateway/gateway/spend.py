"""Sums over the ledger of model calls."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from flotilla.llm.prices import NANOS
from flotilla.postgres import Connection
from gateway.schemas.spend import Spent

By: TypeAlias = Literal["day", "model", "agent", "person", "service", "run"]
# Replays are nobody's questions: what they cost is shown apart from people and services, under `replays`.
_OF_PEOPLE = "CASE WHEN kind = 'replay' THEN 'replays' ELSE {} END"
_NAMES: Mapping[By, str] = {
    "day": "(spent_at AT TIME ZONE 'UTC')::date::text",
    "model": "model",
    "agent": "agent",
    "person": _OF_PEOPLE.format("person"),
    "service": _OF_PEOPLE.format("service"),
    "run": "run_id",
}
_SELECT_SUMS_LLM_SPEND = """
SELECT {name} AS name, count(*) AS calls, sum(input_tokens)::bigint AS input_tokens,
    sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(nanos) AS nanos, currency
FROM flotilla.llm_spend LEFT JOIN flotilla.sessions USING (tenant_id, session_id)
WHERE tenant_id = $1 AND spent_at >= $2 AND ($3::text IS NULL OR run_id = $3)
GROUP BY 1, currency ORDER BY {order}, 1, currency LIMIT 1000
"""


async def sum_spend(
    connection: Connection, tenant_id: str, by: By, since: datetime, run_id: str | None = None
) -> list[Spent]:
    """What was spent since then, summed up `by` something; of one run, if named."""
    statement = _SELECT_SUMS_LLM_SPEND.format(name=_NAMES[by], order="1 DESC" if by == "day" else "sum(nanos) DESC")
    rows = await connection.fetch(statement, tenant_id, since, run_id)
    return [Spent(amount=_amount(row["nanos"]), **{k: v for k, v in row.items() if k != "nanos"}) for row in rows]


def _amount(nanos: Decimal) -> str:
    return f"{(Decimal(nanos) / NANOS).normalize():f}"
