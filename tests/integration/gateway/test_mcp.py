"""What `/mcp` lets in, whatever the message: credentials, addresses, sizes, versions."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import PromptReference, ResourceTemplateReference

from flotilla.postgres import open_pool
from gateway.auth.principal import Principal
from gateway.mcp.catalog import find_callable, list_callable_tools
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway

ACCEPT = {"Accept": "application/json, text/event-stream"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
METADATA = "/.well-known/oauth-protected-resource/mcp"


@pytest.fixture
async def client(gateway: RunningGateway) -> httpx.AsyncClient:
    """Of a viewer."""
    return await gateway.client_of("vic", "viewer", person=True)


async def send(client: httpx.AsyncClient, message: Any = LIST, **headers: str) -> httpx.Response:
    return await client.post("/mcp", json=message, headers={**ACCEPT, **headers})


def said(answer: httpx.Response) -> dict[str, Any]:
    """The message of an answer, which comes as an event."""
    assert answer.status_code == 200, answer.text
    [data] = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    message: dict[str, Any] = json.loads(data)
    return message


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_each_version_is_spoken(client: httpx.AsyncClient, version: str) -> None:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    begun = await send(client, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    result = said(begun)["result"]
    assert (result["protocolVersion"], result["serverInfo"]["name"]) == (version, "flotilla")
    assert begun.headers["mcp-session-id"]
    headers = {"MCP-Protocol-Version": version, "Mcp-Session-Id": begun.headers["mcp-session-id"]}
    tools = said(await send(client, **headers))["result"]["tools"]
    assert "search_knowledge_base" in {tool["name"] for tool in tools}


async def test_a_version_that_nobody_speaks_is_refused_with_those_that_are(client: httpx.AsyncClient) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2099-01-01", "io.modelcontextprotocol/clientCapabilities": {}}
    answer = await send(
        client,
        {**LIST, "params": {"_meta": meta}},
        **{"MCP-Protocol-Version": "2099-01-01", "Mcp-Method": "tools/list"},
    )
    assert answer.status_code == 400
    assert "2026-07-28" in answer.json()["error"]["data"]["supported"]


async def test_a_name_that_leads_here_only_for_a_browser_is_refused(
    client: httpx.AsyncClient, replica: Replica
) -> None:
    rebound = await send(client, Host="evil.example.com")
    assert (rebound.status_code, rebound.json()["code"]) == (421, "misdirected")
    for origin in ("https://evil.example.com", "null", "http://["):
        page = await send(client, Origin=origin)
        assert (page.status_code, page.json()["code"]) == (403, "cross_site"), origin
    assert (await send(client, Origin="http://localhost:6274")).status_code == 200
    async with replica(
        mcp_hosts=("fleet.svc",), cors_origins=("https://app.example.com",), public_url="https://fleet.example.com"
    ) as other:
        there = await other.client_of("vic", "viewer", person=True)
        for host in ("fleet.svc:8080", "fleet.example.com"):
            assert (await send(there, Host=host, Origin="https://app.example.com")).status_code == 200


async def test_only_a_bearer_token_opens_it(gateway: RunningGateway) -> None:
    anonymous = gateway.client()
    refused = await send(anonymous)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="flotilla"')
    assert (await anonymous.get(METADATA)).status_code == 404
    operator = await gateway.client_of("olga", "operator", person=True)
    token = await operator.post("/v1/tokens", json={"sessions": ["s"], "scopes": ["read", "run"]})
    assert token.status_code == 201, token.text
    page = gateway.client(token.json()["token"])
    assert (await send(page)).status_code == 403


async def test_a_client_without_credentials_is_led_to_the_provider(replica: Replica) -> None:
    async with replica(
        oidc_issuer="https://login.example.com", oidc_audience="fleet", public_url="https://fleet.example.com"
    ) as gateway:
        client = gateway.client()
        refused = await send(client)
        assert f'resource_metadata="https://fleet.example.com{METADATA}"' in refused.headers["www-authenticate"]
        document = (await client.get(METADATA)).json()
        assert document["resource"] == "https://fleet.example.com/mcp"
        assert document["authorization_servers"] == ["https://login.example.com"]


async def test_messages_come_one_at_a_time_and_within_limits(replica: Replica) -> None:
    async with replica(max_body_bytes=4096) as gateway:
        client = await gateway.client_of("vic", "viewer", person=True)
        assert (await send(client, [LIST, LIST])).status_code == 422
        assert (await send(client, {**LIST, "params": {"cursor": "x" * 5000}})).status_code == 413
        deep: Any = 1
        for _ in range(100):
            deep = [deep]
        assert (await send(client, {**LIST, "params": {"x": deep}})).status_code == 422
        assert (await client.get("/mcp", headers=ACCEPT)).status_code == 405


@pytest.mark.parametrize("name", ["\0", "\ud800", 7, None, ["x"]])
async def test_a_request_of_any_name_can_be_cancelled(client: httpx.AsyncClient, name: Any) -> None:
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": name}}
    body: dict[str, Any] = {
        "content": json.dumps(message),
        "headers": {"Mcp-Session-Id": "s", "Content-Type": "application/json"},
    }
    assert (await client.post("/mcp", **body)).status_code == 202


@pytest.mark.parametrize(
    "message",
    [
        {"id": "\ud800", "method": "tools/list"},
        {"id": 1, "method": "prompts/get", "params": {"name": "review_session", "arguments": {"session_id": "\ud800"}}},
        {"id": 1, "method": "tools/call", "params": {"name": "get_run", "arguments": {"run_id": "\ud800"}}},
        {"id": 1, "method": "resources/list", "params": {"cursor": "\ud800"}},
    ],
)
async def test_half_a_character_is_refused_and_named(client: httpx.AsyncClient, message: dict[str, Any]) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message})
    answer = await client.post("/mcp", content=body, headers={**ACCEPT, "Content-Type": "application/json"})
    assert (answer.status_code, "lone surrogate" in answer.json()["detail"]) == (422, True)


@asynccontextmanager
async def connected(gateway: RunningGateway, who: str = "olga") -> AsyncIterator[Client]:
    """The SDK's client of a person who shares nothing."""
    key = await gateway.key(who, ["operator"], person=True)
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, trust_env=False) as http,
        Client(streamable_http_client(f"{gateway.url}/mcp", http_client=http)) as client,
    ):
        yield client


async def test_a_session_that_is_not_shared_is_not_read(gateway: RunningGateway) -> None:
    bob = await gateway.client_of("bob", "operator", person=True)
    assert (await bob.post("/v1/sessions", json={"session_id": "his"})).status_code == 201
    async with connected(gateway) as mcp:
        hidden = await mcp.call_tool("get_session", {"session_id": "his"})
        listed = await mcp.call_tool("list_sessions", {})
    assert (hidden.is_error, hidden.structured_content and hidden.structured_content["code"]) == (True, "not_found")
    assert listed.structured_content == {"sessions": [], "next_cursor": None}


async def test_an_argument_never_leads_to_another_operation(gateway: RunningGateway) -> None:
    async with connected(gateway) as mcp:
        for name in ("../keys", "a/../../v1/agents", "x?status=1", "%2e%2e/keys", ""):
            answer = await mcp.call_tool("get_session", {"session_id": name})
            assert answer.is_error, name
            assert "keys" not in (answer.structured_content or {})
        unknown = await mcp.call_tool("list_runs", {"metadata.team": "a"})
        assert unknown.is_error


async def test_documents_sessions_and_runs_are_resources_to_those_who_may_read_them(gateway: RunningGateway) -> None:
    bob = await gateway.client_of("bob", "operator", person=True)
    for session_id in ("his", "h:2"):
        assert (await bob.post("/v1/sessions", json={"session_id": session_id})).status_code == 201
    sent = await bob.post(
        "/v1/documents", files={"file": ("lamp.md", b"# Lamps\n\nThe lamp is lit at sunset.", "text/markdown")}
    )
    assert sent.status_code in (200, 201), sent.text
    async with connected(gateway) as mcp:
        [document] = (await mcp.list_resources()).resources
        [content] = (await mcp.read_resource(document.uri)).contents
        assert "The lamp is lit at sunset." in content.text  # type: ignore[union-attr]
        names = {one.name for one in (await mcp.list_resource_templates()).resource_templates}
        assert names == {"documents", "sessions", "runs"}
        for uri in (
            "flotilla://sessions/his",
            "flotilla://documents/..",
            "flotilla://keys/x",
            "flotilla://sessions/%2e%2e%2fkeys",
            "file:///etc/passwd",
        ):
            with pytest.raises(MCPError, match="Resource not found"):
                await mcp.read_resource(uri)
    async with connected(gateway, "bob") as mcp:
        [content] = (await mcp.read_resource("flotilla://sessions/h:2")).contents
        assert json.loads(content.text)["events"] == []  # type: ignore[union-attr]
        ref = ResourceTemplateReference(uri="flotilla://sessions/{session_id}")
        completed = await mcp.complete(ref, {"name": "session_id", "value": "hi"})
        assert completed.completion.values == ["his"]


async def test_prompts_quote_what_their_caller_may_read(gateway: RunningGateway) -> None:
    bob = await gateway.client_of("bob", "operator", person=True)
    assert (await bob.post("/v1/sessions", json={"session_id": "his"})).status_code == 201
    sent = await bob.post(
        "/v1/documents", files={"file": ("lamp.md", b"# Lamps\n\nThe lamp is lit at {sunset}.", "text/markdown")}
    )
    assert sent.status_code in (200, 201), sent.text
    async with connected(gateway) as mcp:
        prompts = {one.name: one for one in (await mcp.list_prompts()).prompts}
        assert sorted(prompts) == ["answer_from_documents", "review_session"]
        asked, *quoted = (
            await mcp.get_prompt("answer_from_documents", {"question": "When is the lamp {lit}?"})
        ).messages
        assert "Question: When is the lamp {lit}?" in asked.content.text  # type: ignore[union-attr]
        [passage] = [one.content.resource for one in quoted]  # type: ignore[union-attr]
        assert "The lamp is lit at {sunset}." in passage.text  # type: ignore[union-attr]
        assert (await mcp.read_resource(passage.uri)).contents
        with pytest.raises(MCPError, match="Resource not found"):
            await mcp.get_prompt("review_session", {"session_id": "his"})
        for name, arguments in (
            ("answer_from_documents", {}),
            ("answer_from_documents", {"question": ""}),
            ("answer_from_documents", {"question": "q", "k": "50"}),
            ("x" * 10_000, {}),
        ):
            with pytest.raises(MCPError):
                await mcp.get_prompt(name, arguments)
        with pytest.raises(MCPError, match="at most 8000 characters"):
            await mcp.get_prompt("answer_from_documents", {"question": "q" * 8001})
    async with connected(gateway, "bob") as mcp:
        asked, events = (await mcp.get_prompt("review_session", {"session_id": "his"})).messages
        assert json.loads(events.content.resource.text)["events"] == []  # type: ignore[union-attr]
        completed = await mcp.complete(PromptReference(name="review_session"), {"name": "session_id", "value": "hi"})
        assert completed.completion.values == ["his"]


async def test_whatever_is_listed_is_found_by_its_name(gateway: RunningGateway) -> None:
    for name in ("short", "a" * 60, "mcp", "rag"):
        await gateway.as_superuser(
            "INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, "
            f"input_schema, output_schema) VALUES ('{name}', 'i', '1', 's', 'g', 8, '{{}}', '{{}}')"
        )
    await gateway.as_superuser(
        "INSERT INTO flotilla_ops.workflows (name, version, task_queue, instance, description, input_schema, "
        "output_schema) VALUES ('brief', '1', 'q', 'i', 'Writes a brief.', '{}', '{}')"
    )
    caller = Principal(tenant_id="acme", subject="olga", roles=frozenset({"operator"}), is_person=True)
    async with open_pool(gateway.database.dsn("flotilla_gateway"), application="test") as pool:
        door: Any = SimpleNamespace(services=SimpleNamespace(pool=pool), caller=caller)
        listed = await list_callable_tools(door)
        assert sorted(one.target for one in listed.values()) == sorted(
            [f"agent {name}" for name in ("short", "a" * 60, "rag")] + ["workflow brief", "workflow rag"]
        )
        assert {name: await find_callable(door, name) for name in listed} == listed
        assert await find_callable(door, "agent__mcp") is None
