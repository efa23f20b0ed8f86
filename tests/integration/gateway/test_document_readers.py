"""Documents that not everybody may read, through the API: found, listed, cited and attached."""

import asyncio
import json
from functools import partial
from typing import Any

import httpx
import pytest

from tests.support.gateway import ANSWER, RunningGateway
from tests.support.waiting import eventually

PAY = b"# Pay\n\nThe director earns 9,000 euros of salary."


async def add(client: httpx.AsyncClient, uri: str, content: bytes, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/documents", files={"file": (uri, content)}, data={"uri": uri, **fields})
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def found(client: httpx.AsyncClient, query: str, **params: str) -> list[str]:
    answer = await client.get("/v1/documents/search", params={"q": query, **params})
    assert answer.status_code == 200, answer.text
    return [passage["source"]["uri"] for passage in answer.json()["passages"]]


async def open_session(client: httpx.AsyncClient, visibility: str) -> None:
    assert (await client.post("/v1/sessions", json={"session_id": "s1"})).status_code == 201
    assert (await client.patch("/v1/sessions/s1/access", json={"visibility": visibility})).status_code == 200


@pytest.fixture
async def carol(gateway: RunningGateway) -> httpx.AsyncClient:
    return await gateway.client_of("carol", "operator", person=True)


async def test_a_document_with_readers_is_there_for_them_only(
    gateway: RunningGateway, operator: httpx.AsyncClient, carol: httpx.AsyncClient
) -> None:
    dave = await gateway.client_of("dave", "viewer", person=True)
    added = await add(operator, "pay.md", PAY, readers=["user:dave", "group:finance"])
    path = f"/v1/documents/{added['document_id']}"
    for client in (operator, dave):
        assert await found(client, "salary") == ["pay.md"]
        shown = (await client.get(path)).json()["readers"]
        assert [(one["kind"], one["name"]) for one in shown] == [
            ("user", "dave"),
            ("group", "finance"),
            ("user", "olga"),
        ]
    assert await found(carol, "salary") == []
    assert (await carol.get("/v1/documents")).json()["documents"] == []
    assert (await carol.get(path)).status_code == 404
    assert (await carol.delete(path)).status_code == 404
    assert (await carol.put(f"{path}/readers", json={"readers": None})).status_code == 404
    again = await carol.post("/v1/documents", files={"file": ("pay.md", b"Carol earns more.")})
    assert again.status_code == 403, again.text
    assert (await operator.put(f"{path}/readers", json={"readers": [{"name": "carol"}]})).status_code == 200
    assert (await found(carol, "salary"), await found(dave, "salary")) == (["pay.md"], [])
    assert (await operator.put(f"{path}/readers", json={"readers": None})).json()["readers"] is None
    assert await found(dave, "salary") == ["pay.md"]


@pytest.mark.parametrize("reader", ["team:x", "user:", "group: finance", "a\u200b"])
async def test_a_reader_that_is_none_is_refused(operator: httpx.AsyncClient, reader: str) -> None:
    answer = await operator.post("/v1/documents", files={"file": ("pay.md", PAY)}, data={"readers": [reader]})
    assert answer.status_code == 422, answer.text
    assert "user:NAME" in answer.text


async def cite(gateway: RunningGateway, document_id: str) -> dict[str, Any]:
    """End all runs with an answer that cites the document; return the source."""
    source = {"document_id": document_id, "title": "Pay", "uri": "pay.md", "passage_id": "1", "start": 0,
              "end": 9, "score": 1.0, "quote": "The director earns 9,000 euros of salary."}  # fmt: skip
    result = json.dumps({**ANSWER, "sources": [source]})
    await gateway.as_superuser(f"UPDATE flotilla.runs SET status = 'success', result = '{result}'")
    return source


async def test_who_may_read_the_run_but_not_the_document_sees_no_quote_of_it(
    gateway: RunningGateway, operator: httpx.AsyncClient, carol: httpx.AsyncClient
) -> None:
    added = await add(operator, "pay.md", PAY, readers=["user:olga"])
    await open_session(operator, "tenant")
    run = (await operator.post("/v1/sessions/s1/runs", json={"query": "Who earns what?"})).json()
    source = await cite(gateway, added["document_id"])
    path = f"/v1/runs/{run['run_id']}"
    assert (await operator.get(path)).json()["result"]["sources"][0]["quote"] == source["quote"]
    [shown] = (await carol.get(path)).json()["result"]["sources"]
    assert (shown["quote"], shown["uri"], shown["title"]) == ("", "", "A document that you may not read")
    assert (await carol.get(path)).json()["removed_documents"] == []
    [listed] = (await carol.get("/v1/runs")).json()["runs"]
    assert "9,000" not in json.dumps(listed)
    [row] = await gateway.rows("SELECT reads_as FROM flotilla.runs")
    assert row["reads_as"] == ["user/flotilla/olga"]


async def test_a_repeated_question_shows_no_quote_of_a_document_that_its_asker_may_no_longer_read(
    gateway: RunningGateway, operator: httpx.AsyncClient, carol: httpx.AsyncClient
) -> None:
    added = await add(operator, "pay.md", PAY, readers=["user:carol"])
    messages = [{"role": "user", "content": "Who earns what?"}]
    questions: list[tuple[str, dict[str, Any]]] = [
        ("/v1/sessions/s1/runs", {"query": "Who earns what?", "wait_s": 30}),
        ("/openai/v1/chat/completions", {"model": "flotilla/rag", "messages": messages}),
    ]
    key = {"Idempotency-Key": "once"}
    for number, (path, body) in enumerate(questions, start=1):
        asking = asyncio.create_task(carol.post(path, json=body, headers=key))
        await eventually(partial(has_runs, gateway, number))
        await cite(gateway, added["document_id"])
        assert "9,000" in (await asking).text
    others = {"readers": [{"name": "dave"}]}
    assert (await operator.put(f"/v1/documents/{added['document_id']}/readers", json=others)).status_code == 200
    for path, body in questions:
        again = await carol.post(path, json=body, headers=key)
        assert (again.status_code, "9,000" in again.text, "A document that you" in again.text) == (200, False, True)
    assert await has_runs(gateway, len(questions))


async def has_runs(gateway: RunningGateway, count: int) -> bool:
    return len(await gateway.rows("SELECT run_id FROM flotilla.runs")) == count


async def test_an_attachment_is_found_in_its_session_by_those_who_read_it(
    operator: httpx.AsyncClient, carol: httpx.AsyncClient
) -> None:
    await open_session(operator, "private")
    answer = await operator.post("/v1/sessions/s1/attachments", files={"file": ("pay.md", PAY)})
    assert answer.status_code == 201, answer.text
    assert answer.json()["uri"] == "session:s1/pay.md"
    assert await found(operator, "salary", session_id="s1") == ["session:s1/pay.md"]
    assert await found(operator, "salary") == []
    assert await found(operator, "salary", session_id="s2") == []
    assert await found(carol, "salary", session_id="s1") == []
    assert (await carol.post("/v1/sessions/s1/attachments", files={"file": ("b.md", PAY)})).status_code == 404
    assert (await carol.get("/v1/documents")).json()["documents"] == []
