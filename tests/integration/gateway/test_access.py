"""Every operation of the OpenAPI document, for every role of two tenants, against the rules that are written here."""

import asyncio
from functools import cache
from typing import Any

import pytest
from starlette.routing import Route

from flotilla.runtime import Health
from gateway.application import create_application, guarded_routes
from gateway.auth.principal import ROLES
from tests.support.gateway import RunningGateway
from tests.support.operations import QUERY, THINGS, Operation, operations_of

RULES = {
    "nobody needs to be known": """
        GET /auth/config
        GET /auth/oidc/callback
        GET /auth/oidc/start
        POST /auth/login
        POST /auth/logout
        GET /.well-known/agent-card.json
        GET /.well-known/jwks.json
        GET /.well-known/oauth-protected-resource
        GET /.well-known/oauth-protected-resource/mcp
        GET /a2a/workflows/rag/.well-known/agent-card.json
    """,
    "viewer operator approver admin": """
        GET /auth/me
        GET /v1/actions
        GET /v1/actions/{action_id}
        GET /v1/agents
        GET /v1/agents/{agent_name}/route
        GET /v1/analytics/tokens
        GET /v1/analytics/tools
        GET /v1/approvals
        GET /v1/approvals/count
        GET /v1/approvals/{approval_id}
        POST /v1/approvals/{approval_id}/decision
        GET /v1/audit/checkpoints
        GET /v1/audit/export
        GET /v1/audit/logs/{partition}/checkpoint
        GET /v1/audit/logs/{partition}/stamp
        GET /v1/audit/logs/{partition}/tile/{tile}
        GET /v1/audit/verify
        GET /v1/documents
        GET /v1/documents/search
        GET /v1/documents/{document_id}
        GET /v1/fleet
        GET /v1/fleet/history
        GET /v1/orders
        GET /v1/orders/{order_id}
        GET /v1/questions
        GET /v1/questions/{question_id}
        POST /v1/questions/{question_id}/answer
        GET /v1/runs
        GET /v1/runs/{run_id}
        GET /v1/runs/{run_id}/events
        GET /v1/runs/{run_id}/feedback
        POST /v1/runs/{run_id}/feedback
        GET /v1/feedback
        GET /v1/runs/{run_id}/notices
        GET /v1/runs/{run_id}/steps
        GET /v1/schedules
        GET /v1/schedules/{schedule_id}
        GET /openai/v1/files
        GET /openai/v1/files/{file_id}
        GET /openai/v1/files/{file_id}/content
        GET /openai/v1/models
        GET /openai/v1/models/{family}/{name}
        GET /openai/v1/models/{family}/{kind}/{name}
        GET /openai/v1/responses/{response_id}
        GET /openai/v1/responses/{response_id}/input_items
        GET /v1/signers
        POST /v1/signers
        GET /v1/signers/{signer_id}
        DELETE /v1/signers/{signer_id}
        GET /v1/sessions
        GET /v1/sessions/{session_id}
        GET /v1/sessions/{session_id}/access
        GET /v1/sessions/{session_id}/diff
        GET /v1/sessions/{session_id}/events
        GET /v1/sessions/{session_id}/lineage
        GET /v1/sessions/{session_id}/state
        GET /v1/tasks
        GET /v1/tasks/{task_id}
        GET /v1/tasks/{task_id}/events
        GET /a2a/{kind}/{name}/.well-known/agent-card.json
        GET /a2a/{kind}/{name}/extendedAgentCard
        GET /a2a/{kind}/{name}/tasks
        GET /a2a/{kind}/{name}/tasks/{id}
        GET /a2a/{kind}/{name}/tasks/{id}:subscribe
        POST /a2a/{kind}/{name}/tasks/{id}:subscribe
        GET /a2a/{kind}/{name}/tasks/{id}/pushNotificationConfigs
        GET /a2a/{kind}/{name}/tasks/{id}/pushNotificationConfigs/{push_id}
        POST /a2a/{kind}/{name}
        POST /a2a/{kind}/{name}/
        POST /mcp
        POST /v1/tokens
        GET /v1/tools
        GET /v1/tools/{tool_name}
        GET /v1/workflows
        GET /v1/workflows/{name}
    """,
    "operator admin": """
        GET /v1/tenants
        GET /v1/tenants/{tenant_id}
        POST /v1/actions
        POST /v1/actions/{action_id}/cancel
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
        POST /v1/temporal/decode
        GET /v1/spend
        POST /v1/documents
        PUT /v1/documents/{document_id}
        PUT /v1/documents/{document_id}/readers
        POST /v1/sessions/{session_id}/attachments
        DELETE /v1/documents/{document_id}
        POST /v1/orders
        POST /v1/orders/{order_id}/steps/{step}/resolve
        POST /v1/orders/{order_id}/steps/{step}/retry
        POST /v1/orders/{order_id}/steps/{step}/skip
        GET /v1/outbox
        POST /v1/outbox/{session_id}/redrive
        POST /v1/runs/{run_id}/cancel
        POST /v1/runs/{run_id}/replays
        POST /v1/runs/{run_id}/events/{name}
        POST /v1/sessions
        PATCH /v1/sessions/{session_id}/access
        POST /v1/schedules
        PATCH /v1/schedules/{schedule_id}
        DELETE /v1/schedules/{schedule_id}
        POST /v1/schedules/{schedule_id}/trigger
        POST /v1/sessions/{session_id}/events
        POST /v1/sessions/{session_id}/fork
        POST /v1/sessions/{session_id}/rollback
        POST /v1/sessions/{session_id}/runs
        POST /v1/tasks
        POST /v1/tasks/{task_id}/cancel
        POST /openai/v1/chat/completions
        POST /openai/v1/embeddings
        POST /openai/v1/files
        DELETE /openai/v1/files/{file_id}
        POST /openai/v1/responses
        POST /openai/v1/responses/{response_id}/cancel
        POST /a2a/{kind}/{name}/message:send
        POST /a2a/{kind}/{name}/message:stream
        POST /a2a/{kind}/{name}/tasks/{id}:cancel
        POST /a2a/{kind}/{name}/tasks/{id}/pushNotificationConfigs
        DELETE /a2a/{kind}/{name}/tasks/{id}/pushNotificationConfigs/{push_id}
    """,
    "admin": """
        POST /v1/signers/{signer_id}/approval
        POST /v1/audit/parked/{session_id}/discard
        POST /v1/audit/parked/{session_id}/accept
        POST /v1/audit/parked/{session_id}/reject
        POST /v1/audit/parked/accept
        POST /v1/audit/parked/reject
        POST /v1/audit/rebuild
        GET /v1/audit/archivable
        GET /v1/audit/archives
        POST /v1/audit/archives
        POST /v1/audit/archives/{session_id}/events
        POST /v1/audit/archives/{session_id}/restore
        POST /v1/audit/kept-projection/drop
        PUT /v1/agents/{agent_name}/route
        DELETE /v1/agents/{agent_name}/route
        PUT /v1/tools/{tool_name}/allowance
        PUT /v1/approvals/{approval_id}/outcome
        DELETE /v1/tools/{tool_name}/allowance
        GET /v1/keys
        GET /v1/notify
        PUT /v1/notify
        DELETE /v1/notify
        POST /v1/keys
        DELETE /v1/keys/{key_id}
        GET /v1/privacy/plan
        GET /v1/privacy/erasures
        GET /v1/privacy/erasures/{erasure_id}
        POST /v1/privacy/erasures
        POST /v1/privacy/erasures/{erasure_id}/confirm
        GET /v1/privacy/requests
        GET /v1/privacy/requests/{request_id}
        POST /v1/privacy/requests/{request_id}/confirm
        POST /v1/privacy/exports
        GET /v1/privacy/exports/{request_id}/archive
        GET /v1/privacy/retention
        GET /v1/privacy/retention/plan
        POST /v1/privacy/retention
        GET /v1/privacy/holds
        POST /v1/privacy/holds
        DELETE /v1/privacy/holds
        POST /v1/tenants
        POST /v1/tenants/{tenant_id}/suspend
        POST /v1/tenants/{tenant_id}/resume
        POST /v1/tenants/{tenant_id}/deletion
        POST /v1/tenants/{tenant_id}/deletion/confirm
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
ANSWERS = "POST /v1/questions/{question_id}/answer"
"""Open to every role; the question says whose answer counts. These keys are services'."""
SHARES = "PATCH /v1/sessions/{session_id}/access"
"""For the session's owner, and for who operates all sessions."""
ENROLLS = "POST /v1/signers"
"""For people, whatever their role; these keys are services'."""
CONFIRMS = ("POST /v1/privacy/erasures/{erasure_id}/confirm", "POST /v1/privacy/requests/{request_id}/confirm")
"""For a further person."""
FETCHES = "GET /v1/privacy/exports/{request_id}/archive"
"""For who asked for it."""
NOTIFIES = "PUT /v1/notify"
"""Of listed hosts only, and none is listed here."""
APPENDS = "POST /v1/sessions/{session_id}/events"
"""For services whose key has a right of its own besides its role."""
ROUTES_AGENTS = ("PUT /v1/agents/{agent_name}/route", "DELETE /v1/agents/{agent_name}/route")
"""Agents serve all tenants: for administrators of the operator's."""
GOVERNS_TENANTS = "/v1/tenants"
"""For the operator's tenant."""
NAMED = ("GET /v1/audit/verify", "GET /v1/audit/export")
"""Name a session in the query."""
STARTS_A_RUN = "POST /v1/sessions/{session_id}/runs"
"""Opens a session of the caller's own tenant, if there is none of that name."""


@cache
def api_document() -> dict[str, Any]:
    """What every replica serves as /openapi.json; to make it takes a second."""
    document: dict[str, Any] = create_application(None, None, Health()).openapi()  # type: ignore[arg-type]
    return document


@pytest.fixture
async def stocked(gateway: RunningGateway) -> RunningGateway:
    await gateway.as_superuser(THINGS)
    return gateway


@pytest.fixture
def operations() -> list[Operation]:
    """All that the document lists and that needs credentials; what starts a run comes last."""
    found = [operation for operation in operations_of(api_document()) if operation.name not in PUBLIC]
    return sorted(found, key=lambda operation: operation.name == STARTS_A_RUN)


def test_every_operation_has_a_rule_here_and_declares_just_that() -> None:
    document = api_document()
    declared = {
        f"{method.upper()} {path}": frozenset(details.get("x-roles", ()))
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    }
    assert declared == WHO
    assert {f"{method} {route.path_format}" for route in guarded_routes() for method in route.methods or ()} == set(WHO)


def test_what_is_served_besides_the_api_is_public_on_purpose() -> None:
    application = create_application(None, None, Health())  # type: ignore[arg-type]
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


REFUSED_FOR = {
    ENROLLS: "person",
    **dict.fromkeys(CONFIRMS, "is a service"),
    FETCHES: "nobody else fetches it",
    APPENDS: "may not append",
    NOTIFIES: "FLOTILLA_NOTIFY_HOSTS",
}
"""What these say to a caller who has the role."""


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
            elif operation.name == ANSWERS:
                assert (answer.status_code, answer.json()["code"]) == (403, "not_a_person")
            elif operation.name in REFUSED_FOR:
                assert (answer.status_code, REFUSED_FOR[operation.name] in answer.text) == (403, True)
            elif operation.name == SHARES and who != "admin":
                assert (answer.status_code, "only its owner" in answer.text) == (403, True)
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
            elif operation.name == APPENDS:
                assert (answer.status_code, "may not append" in answer.text) == (403, True)
            elif operation.name in ROUTES_AGENTS or operation.path.startswith(GOVERNS_TENANTS):
                assert (answer.status_code, "operator's tenant" in answer.text) == (403, True)
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
