"""Every operation of the OpenAPI document, for every role of two tenants, against the rules that are written here."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from starlette.routing import Route

from flotilla.runtime import Health
from gateway.application import guarded_routes, make_application
from gateway.auth.principal import ROLES
from tests.support.gateway import RunningGateway

RULES = {
    "nobody needs to be known": """
        GET /auth/config
        GET /auth/oidc/callback
        GET /auth/oidc/start
        POST /auth/login
        POST /auth/logout
    """,
    "viewer operator approver admin": """
        GET /auth/me
        GET /v1/actions
        GET /v1/actions/{action_id}
        GET /v1/agents
        GET /v1/analytics/tokens
        GET /v1/analytics/tools
        GET /v1/approvals
        GET /v1/approvals/count
        GET /v1/approvals/{approval_id}
        POST /v1/approvals/{approval_id}/decision
        GET /v1/audit/checkpoints
        GET /v1/audit/export
        GET /v1/audit/verify
        GET /v1/documents
        GET /v1/documents/search
        GET /v1/documents/{document_id}
        GET /v1/fleet
        GET /v1/fleet/history
        GET /v1/orders
        GET /v1/orders/{order_id}
        GET /v1/runs
        GET /v1/runs/{run_id}
        GET /v1/runs/{run_id}/events
        GET /v1/runs/{run_id}/steps
        GET /v1/sessions
        GET /v1/sessions/{session_id}
        GET /v1/sessions/{session_id}/diff
        GET /v1/sessions/{session_id}/events
        GET /v1/sessions/{session_id}/lineage
        GET /v1/sessions/{session_id}/state
        GET /v1/tasks/{task_id}
    """,
    "operator admin": """
        POST /v1/actions
        GET /v1/audit/parked
        GET /v1/audit/parked/{session_id}
        POST /v1/audit/parked/{session_id}/retry
        GET /v1/audit/requests
        GET /v1/audit/requests/{request_id}
        POST /v1/audit/requests/{request_id}/confirm
        GET /v1/dead-letters
        GET /v1/dead-letters/{dead_letter_id}
        DELETE /v1/dead-letters/{dead_letter_id}
        POST /v1/dead-letters/{dead_letter_id}/redrive
        POST /v1/dead-letters/redrive
        POST /v1/documents
        POST /v1/orders
        POST /v1/orders/{order_id}/steps/{step}/resolve
        POST /v1/orders/{order_id}/steps/{step}/retry
        POST /v1/orders/{order_id}/steps/{step}/skip
        GET /v1/outbox
        POST /v1/outbox/{session_id}/redrive
        POST /v1/runs/{run_id}/cancel
        POST /v1/sessions
        POST /v1/sessions/{session_id}/fork
        POST /v1/sessions/{session_id}/rollback
        POST /v1/sessions/{session_id}/runs
        POST /v1/tasks
    """,
    "admin": """
        POST /v1/audit/parked/{session_id}/discard
        POST /v1/audit/parked/{session_id}/accept
        POST /v1/audit/parked/{session_id}/reject
        POST /v1/audit/parked/accept
        POST /v1/audit/parked/reject
        POST /v1/audit/rebuild
        POST /v1/audit/kept-projection/drop
        GET /v1/keys
        POST /v1/keys
        DELETE /v1/keys/{key_id}
    """,
}
"""Who may call what. An operation that is not here fails the tests: think about who may call it, then add it."""
WHO = {
    operation: frozenset(who.split()) & frozenset(ROLES)
    for who, operations in RULES.items()
    for operation in map(str.strip, operations.strip().splitlines())
}
PUBLIC = {operation for operation, roles in WHO.items() if not roles}
DECISION = "POST /v1/approvals/{approval_id}/decision"
"""Open to every role, since policy refuses, and records, who may not."""
NAMED = ("GET /v1/audit/verify", "GET /v1/audit/export")
"""Name a session in the query."""
STARTS_A_RUN = "POST /v1/sessions/{session_id}/runs"
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


@dataclass(frozen=True)
class Operation:
    """One operation as the document describes it."""

    method: str
    path: str
    query: frozenset[str]
    example: Any

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    async def call(self, client: httpx.AsyncClient) -> httpx.Response:
        """Calls it about acme's things, with the document's own example as body."""
        path = re.sub(r"\{(\w+)\}", lambda name: IDS[name[1]], self.path)
        request: dict[str, Any] = {"params": {name: value for name, value in QUERY.items() if name in self.query}}
        if self.name == "POST /v1/documents":
            request["files"] = {"file": ("a.txt", b"words", "text/plain")}
        elif self.method == "POST":
            request["json"] = self.example
        if self.name == "GET /v1/runs/{run_id}/events":
            async with client.stream(self.method, path) as answer:
                return answer
        return await client.request(self.method, path, **request)


@pytest.fixture
async def operations(gateway: RunningGateway) -> list[Operation]:
    """All that the document lists and that needs credentials; what starts a run comes last."""
    document = (await gateway.client().get("/openapi.json")).json()
    found = [operation for operation in operations_of(document) if operation.name not in PUBLIC]
    return sorted(found, key=lambda operation: operation.name == STARTS_A_RUN)


def operations_of(document: dict[str, Any]) -> list[Operation]:
    return [
        Operation(
            method.upper(),
            path,
            frozenset(parameter["name"] for parameter in details.get("parameters", ()) if parameter["in"] == "query"),
            _example(document, details),
        )
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    ]


def _example(document: dict[str, Any], details: Mapping[str, Any]) -> Any:
    schema = details.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    reference = schema.get("$ref") or next((one["$ref"] for one in schema.get("anyOf", ()) if "$ref" in one), None)
    if reference is None:
        return None
    examples = document["components"]["schemas"][reference.rsplit("/", 1)[1]].get("examples")
    assert examples, f"{reference} has no example"
    return examples[0]


def test_every_operation_has_a_rule_here_and_declares_just_that() -> None:
    application = make_application(None, None, Health())  # type: ignore[arg-type]
    document = application.openapi()
    declared = {
        f"{method.upper()} {path}": frozenset(details.get("x-roles", ()))
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    }
    assert declared == WHO
    assert {f"{method} {route.path}" for route in guarded_routes() for method in route.methods or ()} == set(WHO)


def test_what_is_served_besides_the_api_is_public_on_purpose() -> None:
    application = make_application(None, None, Health())  # type: ignore[arg-type]
    guarded = {route.path for route in guarded_routes()}
    others = {route.path for route in application.routes if isinstance(route, Route)} - guarded
    assert not {path for path in others if path.startswith("/v1")}
    assert {"/livez", "/readyz", "/openapi.json", "/asyncapi.json"} <= others


async def test_every_operation_refuses_who_has_no_credentials_or_wrong_ones(
    stocked: RunningGateway, operations: list[Operation]
) -> None:
    clients = [stocked.client(token) for token in (None, "flo_" + "x" * 43, "a.b.c", "x")]
    for operation in operations:
        for answer in await asyncio.gather(*(operation.call(client) for client in clients)):
            assert answer.status_code == 401, (operation.name, answer.request.headers.get("authorization"))
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_rules_hold_for_every_role_of_the_tenant(
    stocked: RunningGateway, operations: list[Operation]
) -> None:
    clients = {who: await stocked.client_of(f"some-{who}", *{who} & set(ROLES)) for who in (*ROLES, "nobody")}
    for operation in operations:
        for who, client in clients.items():
            answer = await operation.call(client)
            if who not in WHO[operation.name]:
                assert answer.status_code == 403, (operation.name, who, answer.text)
            elif operation.name == DECISION:
                assert answer.json()["code"] == "already_decided", (who, answer.text)
            else:
                assert answer.status_code not in (401, 403, 405, 500), (operation.name, who, answer.status_code)


async def test_the_rules_hold_for_every_role_of_another_tenant_which_sees_and_changes_nothing(
    stocked: RunningGateway, operations: list[Operation]
) -> None:
    clients = {role: await stocked.client_of(f"some-{role}", role, tenant="globex", person=True) for role in ROLES}
    for operation in operations:
        for who, client in clients.items():
            answer = await operation.call(client)
            where = (operation.name, who, answer.status_code)
            if who not in WHO[operation.name]:
                assert answer.status_code == 403, where
            elif operation.name == STARTS_A_RUN:
                assert answer.status_code in (200, 202, 409), where
            elif "{" in operation.path or operation.name in NAMED:
                assert answer.status_code == 404, where
            else:
                assert answer.status_code < 500, where
                assert answer.status_code != 200 or "acme" not in answer.text.replace(QUERY["stream"], ""), where
    (session,) = await stocked.rows("SELECT head_seq, user_id FROM flotilla.sessions")
    assert (session["head_seq"], session["user_id"]) == (0, "olga")
    assert await stocked.rows("SELECT 1 FROM flotilla.api_keys WHERE revoked_at IS NOT NULL") == []
    assert await stocked.rows("SELECT 1 FROM flotilla.dead_letters WHERE discarded_at IS NOT NULL") == []
    assert await stocked.rows("SELECT 1 FROM flotilla.approval_decisions") == []
