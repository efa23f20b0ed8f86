"""Every operation of the API, called about one of everything: for tests that hold of all routes, also of new ones."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

# One of everything, in tenant acme.
THINGS = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, head_seq) VALUES ('acme', 'acme-session', 'olga', 0);
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request)
    VALUES ('acme', 'acme-run', 'acme-session', 'olga', 'run-acme-run', 'q', 'cancelled', '{}');
INSERT INTO flotilla.questions (tenant_id, question_id, session_id, run_id, workflow_id, question, answer_schema, roles)
    VALUES ('acme', 'acme-question', 'acme-session', 'acme-run', 'run-acme-run', 'q', '{}', '{}');
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
INSERT INTO flotilla.erasures (tenant_id, erasure_id, person, reason, requested_by)
    VALUES ('acme', 'acme-erasure', 'user/flotilla/olga', 'r', 'otto');
INSERT INTO flotilla.privacy_requests (tenant_id, request_id, kind, person, reason, requested_by, confirmations_needed)
    VALUES ('acme', 'acme-request', 'export', 'user/flotilla/olga', 'r', 'otto', 1);
INSERT INTO flotilla.allowed_tools (tenant_id, server, tool, sha256, definition, allowed_by)
    VALUES ('acme', 'acme-desk', 'add', 'x', '{"name": "add", "title": null, "description": "d", "input_schema": {},
    "annotations": {}}', 'olga');
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
    "signer_id": "acme-signer",
    "document_id": "acme-document",
    "request_id": "acme-request",
    "schedule_id": "acme-schedule",
    "question_id": "acme-question",
    "erasure_id": "acme-erasure",
    "step": "1",
    "response_id": "resp_acme-run",
    "tool_name": "acme-desk.add",
    "file_id": "file-acme",
    "agent_name": "write",
    "tenant_id": "acme",
    "family": "acme",
    "kind": "workflows",
    "id": "acme-run",
    "push_id": "acme-hook",
    "name": "model",
    "partition": "0",
    "tile": "0/000.p/1",
}
QUERY = {
    "before": "2031-01-01T00:00:00Z",
    "q": "word",
    "stream": "acme-stream",
    "from_seq": "1",
    "to_seq": "1",
    "session_id": "acme-session",
}
UPLOADS = (
    "POST /v1/documents",
    "PUT /v1/documents/{document_id}",
    "POST /v1/sessions/{session_id}/attachments",
    "POST /openai/v1/files",
)
STREAMS = (
    "GET /v1/runs/{run_id}/events",
    "GET /v1/tasks/{task_id}/events",
    "POST /openai/v1/chat/completions",
    "POST /openai/v1/responses",
)
"""They end when their run does."""


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
        if self.path.startswith("/openai/"):
            request = {}  # its `stream` is another one
        if self.name in UPLOADS:
            request["files"] = {"file": ("a.txt", b"words", "text/plain")}
            request["data"] = {"purpose": "user_data"} if self.path.startswith("/openai/") else {}
        elif self.method in ("POST", "PATCH", "PUT"):
            request["json"] = self.example
        if self.name in STREAMS:
            if request.get("json"):
                request["json"] = {**request["json"], "stream": True}
            async with client.stream(self.method, path, **request) as answer:
                if answer.is_success:
                    return httpx.Response(answer.status_code, headers=answer.headers, request=answer.request)
                await answer.aread()
                return answer
        return await client.request(self.method, path, **request)


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
