"""The built-in actions."""

import asyncpg
import httpx

from flotilla.actions import ActionContext
from flotilla.actions.arguments import EchoArgs, HttpRequestArgs, PublishAnswerArgs
from flotilla.approvals.events import make_action_event
from flotilla.config.hosts import parse_allowed_url
from flotilla.contracts.errors import Invalid, RetryLater, no_such
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.outbox import append
from flotilla.postgres import tenant_transaction

MAX_RESPONSE_BYTES = 65_536
_SERVER_ERROR = 500
_TOO_MANY_REQUESTS = 429

_SELECT_RUN_ANSWER = "SELECT status, session_id, result FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
# A run's answer is published once, no matter who asks.
_INSERT_PUBLICATION = """
INSERT INTO flotilla.publications (tenant_id, run_id, action_id, answer) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING published_at
"""
_SELECT_PUBLICATION = "SELECT action_id, published_at FROM flotilla.publications WHERE tenant_id = $1 AND run_id = $2"


async def echo(_context: ActionContext, args: EchoArgs) -> JsonValue:
    """Give the text back."""
    return {"text": args.text}


async def http_request(context: ActionContext, args: HttpRequestArgs) -> JsonValue:
    """Send one request to an allow-listed host. Redirects are not followed: they could lead off the list.

    Raises:
        Forbidden: the host is not on the list, or on it for https alone.
        RetryLater: the host is away or busy; a repetition carries the same Idempotency-Key.
    """
    url = parse_allowed_url(args.url, context.allowed_hosts, "FLOTILLA_ACTION_HTTP_HOSTS")
    try:
        async with context.http.stream(
            args.method, url, json=args.json, headers={"Idempotency-Key": context.idempotency_key}
        ) as response:
            body = await _read_bounded_text(response)
    except httpx.HTTPError as error:
        raise RetryLater(f"{args.method} {url.host}: {type(error).__name__} {error}") from error
    if response.status_code >= _SERVER_ERROR or response.status_code == _TOO_MANY_REQUESTS:
        raise RetryLater(f"{args.method} {url.host} answered {response.status_code}")
    return {"status_code": response.status_code, "body": body}


async def _read_bounded_text(response: httpx.Response) -> str:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            break
    return bytes(body[:MAX_RESPONSE_BYTES]).decode("utf-8", errors="replace").replace("\x00", "\ufffd")


async def publish_answer(context: ActionContext, args: PublishAnswerArgs) -> JsonValue:
    """Publish the answer of a finished run: row and session event in one transaction.

    Raises:
        NotFound: the tenant has no such run.
        Invalid: the run has no answer.
    """
    tenant_id = context.tenant_id
    async with tenant_transaction(context.pool, tenant_id) as connection:
        run = await connection.fetchrow(_SELECT_RUN_ANSWER, tenant_id, args.run_id)
        if run is None:
            raise no_such("run", args.run_id)
        if run["status"] != "success":
            raise Invalid(f"run {args.run_id} has no answer: it is {run['status']}")
        added = await connection.fetchrow(_INSERT_PUBLICATION, tenant_id, args.run_id, context.action_id, run["result"])
        if added is not None:
            event = make_action_event("answer_published", context.action_id, {"run_id": args.run_id})
            await append(connection, tenant_id, run["session_id"], [event])
        return _publication_result(await connection.fetchrow(_SELECT_PUBLICATION, tenant_id, args.run_id), args.run_id)


def _publication_result(row: asyncpg.Record | None, run_id: str) -> JsonObject:
    assert row is not None  # noqa: S101 - inserted or met just above, in this transaction
    return {"run_id": run_id, "published_by": row["action_id"], "published_at": row["published_at"].isoformat()}
