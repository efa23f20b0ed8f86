"""What tools and models did, summed up over the projection and the stored model calls."""

import pytest

from tests.integration.gateway.test_console_reads import as_superuser
from tests.support.gateway import RunningGateway

TOOL_RESULTS = """
INSERT INTO audit.tool_usage (tenant_id, session_id, seq, tool, agent, ok, duration_ms, occurred_at)
SELECT 'acme', 's1', n, 'search', 'research', n % 10 > 0, n, timestamptz '2026-01-01 10:30Z' + n * interval '3 minutes'
FROM generate_series(1, 20) AS n
"""
SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 's1', 'olga')"
MODEL_CALLS = """
INSERT INTO flotilla.llm_calls (tenant_id, task_id, call_index, request_hash, session_id, agent, model, answer,
    input_tokens, output_tokens, duration_ms, created_at)
SELECT 'acme', task, 0, '', 's1', 'write', model, '{}', 10, 5, 10,
    timestamptz '2026-01-01 23:00Z' + hours * interval '1 h'
FROM (VALUES ('a', 'm1', 0), ('b', 'm1', 2), ('c', 'm1', 3), ('d', 'm2', 0)) AS c (task, model, hours)
"""
SINCE_2026 = {"since": "2026-01-01T00:00:00Z"}


async def test_tool_calls_are_summed_up_per_tool(gateway: RunningGateway) -> None:
    await as_superuser(gateway, SESSION, TOOL_RESULTS)
    client = await gateway.client_of("victor", "viewer")

    async def calls(**query: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = (await client.get("/v1/analytics/tools", params=query)).json()["tools"]
        return found

    (whole,) = await calls(**SINCE_2026)
    assert (whole["tool"], whole["calls"], whole["errors"], whole["p50_ms"]) == ("search", 20, 2, 10.5)
    assert whole["p95_ms"] == pytest.approx(19.05)
    assert (await calls(since="2026-01-01T11:01:00Z"))[0]["calls"] == 10
    assert await calls(**SINCE_2026, session_id="s2") == []
    assert await calls() == [], "by default the last 30 days"
    stranger = await gateway.client_of("eve", "viewer", tenant="globex")
    assert (await stranger.get("/v1/analytics/tools", params=SINCE_2026)).json()["tools"] == []


async def test_tokens_are_summed_up_per_model_and_day(gateway: RunningGateway) -> None:
    await as_superuser(gateway, SESSION, MODEL_CALLS)
    client = await gateway.client_of("victor", "viewer")
    rows = (await client.get("/v1/analytics/tokens", params=SINCE_2026)).json()["tokens"]
    assert [(row["model"], row["day"], row["calls"], row["input_tokens"], row["output_tokens"]) for row in rows] == [
        ("m1", "2026-01-02", 2, 20, 10),
        ("m1", "2026-01-01", 1, 10, 5),
        ("m2", "2026-01-01", 1, 10, 5),
    ]
    later = await client.get("/v1/analytics/tokens", params={"since": "2026-01-02T00:00:00Z"})
    assert len(later.json()["tokens"]) == 1


SPENT = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 's1', 'olga');
INSERT INTO flotilla.llm_spend (tenant_id, task_id, call_index, request_hash, run_id, session_id, agent, model, person,
    input_tokens, cached_input_tokens, output_tokens, nanos, currency, answered, spent_at)
SELECT 'acme', 't', 0, '', run, 's1', 'write', model, person, 10, 4, 5, nanos, 'EUR', true,
    timestamptz '2026-01-01 23:00Z' + hours * interval '1 h'
FROM (VALUES ('r1', 'm1', 'olga', 0, 1500000000), ('r1', 'm2', 'olga', 2, 1), ('r2', 'm1', NULL, 3, 250000000))
    AS s (run, model, person, hours, nanos)
"""


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"by": "day"}, [("2026-01-02", "0.250000001"), ("2026-01-01", "1.5")]),
        ({"by": "model"}, [("m1", "1.75"), ("m2", "0.000000001")]),
        ({"by": "agent"}, [("write", "1.750000001")]),
        ({"by": "person"}, [("olga", "1.500000001"), (None, "0.25")]),
        ({"by": "run"}, [("r1", "1.500000001"), ("r2", "0.25")]),
        ({"by": "model", "run_id": "r2"}, [("m1", "0.25")]),
        ({"by": "day", "since": "2026-01-02T02:00:00Z"}, [("2026-01-02", "0.25")]),
    ],
)
async def test_spend_is_summed_up_exactly(
    gateway: RunningGateway, query: dict[str, str], found: list[tuple[str | None, str]]
) -> None:
    await as_superuser(gateway, SPENT)
    client = await gateway.client_of("otto", "operator")
    rows = (await client.get("/v1/spend", params={**SINCE_2026, **query})).json()["spend"]
    assert [(row["name"], row["amount"]) for row in rows] == found
    assert {row["currency"] for row in rows} == {"EUR"}
    stranger = await gateway.client_of("eve", "operator", tenant="globex")
    assert (await stranger.get("/v1/spend", params={**SINCE_2026, **query})).json()["spend"] == []


async def test_spend_is_for_operators(gateway: RunningGateway) -> None:
    client = await gateway.client_of("victor", "viewer")
    assert (await client.get("/v1/spend")).status_code == 403
