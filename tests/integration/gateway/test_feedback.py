"""Verdicts on answers: one of each person, seen by who may read the run."""

import json
from typing import Any

import asyncpg
import httpx
import pytest

from flotilla.postgres import Viewer, acting_as, open_pool, tenant_transaction
from tests.support.gateway import ANSWER, RunningGateway

SOURCE = {"document_id": "d", "title": "t", "uri": "a.md", "passage_id": "1", "start": 0, "end": 5, "score": 1.0}


async def run_of(client: httpx.AsyncClient, session_id: str) -> str:
    answer = await client.post(f"/v1/sessions/{session_id}/runs", json={"query": f"What of {session_id}?"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


async def given(client: httpx.AsyncClient, run_id: str) -> list[tuple[str, str, str]]:
    rows: list[dict[str, Any]] = (await client.get(f"/v1/runs/{run_id}/feedback")).json()["feedback"]
    return [(row["given_by"].rpartition(":")[2], row["verdict"], row["comment"]) for row in rows]


async def test_the_last_verdict_of_a_person_counts(
    gateway: RunningGateway, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWER, "sources", [SOURCE, SOURCE])
    run_id = await run_of(operator, "s1")
    await gateway.finish(run_id)
    for verdict, comment in (("up", ""), ("down", "Wrong page.")):
        answer = await operator.post(f"/v1/runs/{run_id}/feedback", json={"verdict": verdict, "comment": comment})
        assert answer.status_code == 200, answer.text
    [[by, verdict, comment]] = await given(operator, run_id)
    assert (by.endswith("olga"), verdict, comment) == (True, "down", "Wrong page.")
    [listed] = (await operator.get("/v1/feedback")).json()["feedback"]
    assert (listed["query"], listed["cited_uris"]) == ("What of s1?", ["a.md"])
    assert (await operator.get("/v1/feedback", params={"verdict": "up"})).json()["feedback"] == []
    for wrong in ({"verdict": "sideways"}, {"verdict": "up", "comment": "x" * 2001}, {}):
        assert (await operator.post(f"/v1/runs/{run_id}/feedback", json=wrong)).status_code == 422


async def test_who_may_not_read_the_run_neither_gives_nor_sees_feedback(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    run_id = await run_of(operator, "s1")
    await operator.post(f"/v1/runs/{run_id}/feedback", json={"verdict": "up"})
    colleague = await gateway.client_of("carol", "operator")
    stranger = await gateway.client_of("eve", "operator", tenant="globex")
    for client in (colleague, stranger):
        assert (await client.post(f"/v1/runs/{run_id}/feedback", json={"verdict": "up"})).status_code == 404
        assert (await client.get(f"/v1/runs/{run_id}/feedback")).status_code == 404
        assert (await client.get("/v1/feedback")).json()["feedback"] == []
    await operator.patch("/v1/sessions/s1/access", json={"add_readers": [{"name": "carol"}]})
    assert (await colleague.post(f"/v1/runs/{run_id}/feedback", json={"verdict": "down"})).status_code == 200
    assert sorted(verdict for _, verdict, _ in await given(operator, run_id)) == ["down", "up"]


async def test_pages_of_feedback_follow_each_other(operator: httpx.AsyncClient) -> None:
    runs = [await run_of(operator, f"s{number}") for number in range(3)]
    for run_id in runs:
        await operator.post(f"/v1/runs/{run_id}/feedback", json={"verdict": "up"})
    seen, cursor = [], None
    for _ in range(3):
        page = (
            await operator.get("/v1/feedback", params={"limit": 1, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [one["run_id"] for one in page["feedback"]]
        cursor = page["next_cursor"]
    assert seen == runs[::-1]


async def test_the_database_takes_no_verdict_in_another_name(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    run_id = await run_of(operator, "s1")
    await operator.post(f"/v1/runs/{run_id}/feedback", json={"verdict": "up"})
    [row] = json.loads((await operator.get(f"/v1/runs/{run_id}/feedback")).text)["feedback"]
    mine = row["given_by"]
    async with open_pool(gateway.database.dsn("flotilla_gateway"), application="test") as pool:
        with acting_as(Viewer(names=(mine,), roles=())), pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(pool, "acme") as connection:
                await connection.execute(
                    "INSERT INTO flotilla.feedback (tenant_id, run_id, given_by, verdict) VALUES ($1, $2, $3, $4)",
                    "acme", run_id, "somebody else", "up",
                )  # fmt: skip
