"""Every route, for every role, of two tenants."""

import re
from collections.abc import Mapping
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.application import guarded_routes
from gateway.auth.principal import EVERYONE, ROLES
from gateway.guard import GuardedRoute
from tests.support.gateway import RunningGateway

DECISION = "/v1/approvals/{approval_id}/decision"
"""Open to every role, since policy refuses, and records, who may not."""
PUBLIC = {
    ("GET", "/auth/config"),
    ("POST", "/auth/login"),
    ("POST", "/auth/logout"),
    ("GET", "/auth/oidc/start"),
    ("GET", "/auth/oidc/callback"),
}
"""All that needs no credentials: the way to get some."""
STARTS_A_RUN = "/v1/sessions/{session_id}/runs"
"""Opens a session of the caller's own tenant, if there is none of that name."""
# One of everything, in tenant acme.
THINGS = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, head_seq) VALUES ('acme', 'acme-session', 'olga', 0);
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request)
    VALUES ('acme', 'acme-run', 'acme-session', 'olga', 'run-acme-run', 'q', 'cancelled', '{}');
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, request)
    VALUES ('acme', 'acme-action', 'acme-session', 'action-acme-action', 'echo', 'd', '{}', 'low', 'olga', '{}');
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
    VALUES ('acme', 'acme-action', 'acme-session', 'action-acme-action', 'echo', 'd', '{}', 'h', 'low', '{}', 'olga',
    '{"required": true, "risk_level": "low", "reasons": [], "policy_version": "1"}', '1', 1, now());
INSERT INTO flotilla.orders (tenant_id, order_id, session_id, workflow_id, user_id, product_id, amount_minor, currency,
    request)
    VALUES ('acme', 'acme-order', 'acme-session', 'order-acme-order', 'olga', 'p', 5, 'EUR', '{}');
INSERT INTO flotilla.pipelines (tenant_id, task_id, session_id, user_id, workflow_id, steps, status, request,
    result_task_id, finished_at)
    VALUES ('acme', 'acme-task', 'acme-session', 'olga', 'task-acme-task', '{a}', 'success', '{}', 'acme-task', now());
INSERT INTO flotilla.dead_letters (tenant_id, dead_letter_id, stream, consumer_group, entry_id, reason, error, attempts,
    body)
    VALUES ('acme', 'acme-letter', 'acme-stream', 'g', '1-1', 'r', 'e', 1, '');
INSERT INTO flotilla.api_keys (tenant_id, key_id, name, key_hash, subject, roles, created_by)
    VALUES ('acme', 'acme-key', 'acme-olga', 'x', 'olga', '{viewer}', 'test');
INSERT INTO flotilla.documents (tenant_id, document_id, uri, title, media_type, content_hash, size_bytes, body,
    passages)
    VALUES ('acme', 'acme-document', 'acme-uri', 't', 'text/plain', 'x', 1, 'b', 0);
INSERT INTO flotilla.llm_calls (tenant_id, task_id, call_index, request_hash, session_id, agent, model, answer,
    input_tokens, output_tokens, duration_ms)
    VALUES ('acme', 't', 0, 'x', 'acme-session', 'a', 'acme-model', '{}', 1, 1, 1);
INSERT INTO audit.tool_usage (tenant_id, session_id, seq, tool, agent, ok, duration_ms, occurred_at)
    VALUES ('acme', 'acme-session', 1, 'acme-tool', 'a', true, 1, now());
INSERT INTO audit.requests (tenant_id, request_id, kind, requested_by) VALUES ('acme', 'acme-request', 'retry', 'olga');
INSERT INTO audit.parked_events (tenant_id, kafka_partition, kafka_offset, session_id, seq, reason, detail, body)
    VALUES ('acme', 0, 0, 'acme-session', 9, 'gap', 'd', '');
"""
IDS = {
    "session_id": "acme-session",
    "run_id": "acme-run",
    "action_id": "acme-action",
    "approval_id": "acme-action",
    "order_id": "acme-order",
    "task_id": "acme-task",
    "dead_letter_id": "acme-letter",
    "key_id": "acme-key",
    "document_id": "acme-document",
    "request_id": "acme-request",
    "step": "1",
}
QUERY = {"q": "word", "stream": "acme-stream", "from_seq": "1", "to_seq": "1", "session_id": "acme-session"}


@pytest.fixture
async def stocked(gateway: RunningGateway) -> RunningGateway:
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        await connection.execute(THINGS)
    finally:
        await connection.close()
    return gateway


@pytest.fixture
async def examples(gateway: RunningGateway) -> Mapping[str, Any]:
    """The OpenAPI document's own examples, as bodies."""
    document = (await gateway.client().get("/openapi.json")).json()
    return {path: _example(document, operations) for path, operations in document["paths"].items()}


def _example(document: dict[str, Any], operations: dict[str, Any]) -> Any:
    content = operations.get("post", {}).get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    reference = schema.get("$ref") or next((one["$ref"] for one in schema.get("anyOf", ()) if "$ref" in one), None)
    if reference is None:
        return None
    examples = document["components"]["schemas"][reference.rsplit("/", 1)[1]].get("examples")
    assert examples, f"{reference} has no example"
    return examples[0]


def closed_routes() -> list[GuardedRoute]:
    """Those that need credentials: all but the five of `PUBLIC`."""
    return [route for route in guarded_routes() if (method_of(route), route.path) not in PUBLIC]


def method_of(route: GuardedRoute) -> str:
    (method,) = route.methods or set()
    return method


async def call(client: httpx.AsyncClient, route: GuardedRoute, examples: Mapping[str, Any]) -> httpx.Response:
    path = re.sub(r"\{(\w+)\}", lambda name: IDS[name[1]], route.path)
    method = method_of(route)
    names = {parameter.alias for parameter in route.dependant.query_params}
    request: dict[str, Any] = {"params": {name: value for name, value in QUERY.items() if name in names}}
    if route.path == "/v1/documents" and method == "POST":
        request["files"] = {"file": ("a.txt", b"words", "text/plain")}
    elif method == "POST":
        request["json"] = examples[route.path]
    if route.path.endswith("/events") and "run_id" in route.path:
        async with client.stream(method, path) as answer:
            return answer
    return await client.request(method, path, **request)


async def test_every_route_refuses_who_has_no_credentials_or_wrong_ones(
    stocked: RunningGateway, examples: Mapping[str, Any]
) -> None:
    for token in (None, "flo_" + "x" * 43, "a.b.c", "x"):
        client = stocked.client(token)
        for route in closed_routes():
            answer = await call(client, route, examples)
            assert answer.status_code == 401, (route.path, token)
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_every_route_lets_in_the_roles_that_it_declares_and_no_others(
    stocked: RunningGateway, examples: Mapping[str, Any]
) -> None:
    for role in ROLES:
        client = await stocked.client_of(f"some-{role}", role)
        for route in closed_routes():
            answer = await call(client, route, examples)
            if route.path == DECISION:
                continue
            allowed = role in route.access.roles
            assert (answer.status_code not in (401, 403)) == allowed, (
                role,
                route.methods,
                route.path,
                answer.status_code,
            )
    nobody = await stocked.client_of("nobody")
    for route in closed_routes():
        assert (await call(nobody, route, examples)).status_code == 403, route.path


async def test_no_route_shows_or_changes_anything_of_another_tenant(
    stocked: RunningGateway, examples: Mapping[str, Any]
) -> None:
    stranger = await stocked.client_of("eve", *ROLES, tenant="globex", person=True)
    for route in sorted(closed_routes(), key=lambda route: route.path == STARTS_A_RUN):
        answer = await call(stranger, route, examples)
        named = "{" in route.path or route.path in ("/v1/audit/verify", "/v1/audit/export")
        if named and route.path != STARTS_A_RUN:
            assert answer.status_code == 404, (route.methods, route.path, answer.text)
        elif answer.status_code == 200:
            assert "acme" not in answer.text.replace(QUERY["stream"], ""), (route.methods, route.path, answer.text)
        assert answer.status_code < 500, (route.path, answer.text)
    (session,) = await stocked.rows("SELECT head_seq, user_id FROM flotilla.sessions")
    assert (session["head_seq"], session["user_id"]) == (0, "olga")
    assert await stocked.rows("SELECT 1 FROM flotilla.api_keys WHERE revoked_at IS NOT NULL") == []
    assert await stocked.rows("SELECT 1 FROM flotilla.dead_letters WHERE discarded_at IS NOT NULL") == []


def test_reading_is_open_to_every_role_and_keys_to_admins_only() -> None:
    access = {(method_of(route), route.path): route.access.roles for route in guarded_routes()}
    assert {route for route, roles in access.items() if not roles} == PUBLIC
    assert {roles for (_, path), roles in access.items() if path.startswith("/v1/keys")} == {frozenset({"admin"})}
    writing = {
        path: roles
        for (method, path), roles in access.items()
        if method != "GET" and path != DECISION and (method, path) not in PUBLIC
    }
    assert all("viewer" not in roles for roles in writing.values()), writing
    assert access["GET", "/v1/sessions/{session_id}/events"] == EVERYONE
