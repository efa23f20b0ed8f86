"""Keys of sessions for agents, which have no root key: one HTTP route.

The database says whether the process that asks may have the key: it registered its public key with the role of the
agent that the task was given to, and the task is open. The answer can be read by that process alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import ConfigurationError, Forbidden, RetryLater, Undecodable
from flotilla.contracts.session_keys import SESSION_KEYS_PATH, SessionKeyAsked
from flotilla.encryption import Cipher, Keyring, check_proof, public_key_of, sealed_key
from flotilla.postgres import UNSTORABLE, Connection, Pool, retry_later_if_unavailable, tenant_transaction
from flotilla.runtime.http_limits import limited_body
from flotilla.telemetry import TRACEPARENT, span
from flotilla.telemetry.metrics import SESSION_KEYS

MAX_KEY_REQUEST_BYTES = 10_000
MAX_NAMED_CHARS = 200
_TURN_TIMEOUT_S = 4.0
"""For its turn a request waits less long than the process waits for the answer."""
_SELECT_KEY_REQUESTER = "SELECT agent, secret_hash FROM flotilla.session_key_asker($1, $2, $3, $4, $5)"
_OUTCOMES = {200: "issued", 400: "malformed", 413: "malformed", 403: "refused", 503: "unavailable"}
"""What the metric counts, by the answer's status."""
log = structlog.get_logger(__name__)


class SessionKeyIssuer:
    """Answers agents with the keys of their tasks' sessions."""

    def __init__(self, pool: Pool, keyring: Keyring, *, at_once: int = 5) -> None:
        """`keyring` has the root key. It uses at most `at_once` connections: activities need the others."""
        self._pool = pool
        self._keyring = keyring
        self._turns = asyncio.Semaphore(at_once)

    async def issue_session_key(self, asked: SessionKeyAsked) -> bytes:
        """Return the session's key, encrypted for who asked.

        Raises:
            Undecodable: the request's public key is none.
            Forbidden: the task does not entitle this process to this key, or the secret is not proven.
            RetryLater, ConfigurationError: PostgreSQL, or the root key, is unavailable, or too many ask at once.
        """
        public_key = public_key_of(asked)
        async with self._wait_for_turn():
            secret_hash, cipher = await self._load_session_key(asked, public_key)
        return sealed_key(asked, secret_hash, cipher)

    @asynccontextmanager
    async def _wait_for_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_TURN_TIMEOUT_S):
                await self._turns.acquire()
        except TimeoutError as error:
            raise RetryLater("too many processes ask for keys of sessions at once") from error
        try:
            yield
        finally:
            self._turns.release()

    async def _load_session_key(self, asked: SessionKeyAsked, public_key: bytes) -> tuple[bytes, Cipher | None]:
        with retry_later_if_unavailable():
            try:
                async with tenant_transaction(self._pool, asked.tenant_id) as connection:
                    secret_hash = await _check_request_proof(connection, asked, public_key)
                    # As it is now: the process remembers it for as long as this one would.
                    return secret_hash, await self._keyring.looked_up(
                        connection, asked.tenant_id, asked.session_id, makes=asked.makes
                    )
            except UNSTORABLE as error:
                raise Forbidden("no task has such a name") from error


async def _check_request_proof(connection: Connection, asked: SessionKeyAsked, public_key: bytes) -> bytes:
    row = await connection.fetchrow(
        _SELECT_KEY_REQUESTER, asked.tenant_id, asked.task_id, asked.attempt, asked.session_id, public_key
    )
    if row is None:
        raise Forbidden("this process holds no open task of this session, or is not registered with its agent's role")
    check_proof(asked, row["secret_hash"])
    secret_hash: bytes = row["secret_hash"]
    return secret_hash


def make_session_keys_app(issuer: SessionKeyIssuer) -> Starlette:
    """Return the application that serves `issuer`."""
    return Starlette(routes=[Route(SESSION_KEYS_PATH, partial(_serve_key_request, issuer), methods=["POST"])])


async def _serve_key_request(issuer: SessionKeyIssuer, request: Request) -> Response:
    started, outcome = time.monotonic(), "failed"
    parent = request.headers.get(TRACEPARENT)
    try:
        with span("issue session key", kind=SpanKind.SERVER, parent=parent) as active:
            response = await _answer_key_request(issuer, request)
            outcome = _OUTCOMES[response.status_code]
            active.set_attribute("flotilla.outcome", outcome)
            return response
    finally:
        SESSION_KEYS.labels(outcome).observe(time.monotonic() - started)


async def _answer_key_request(issuer: SessionKeyIssuer, request: Request) -> Response:
    body = await limited_body(request, MAX_KEY_REQUEST_BYTES)
    if body is None:
        return _refusal_response(413, f"a request has at most {MAX_KEY_REQUEST_BYTES} bytes")
    try:
        asked = from_json(body, SessionKeyAsked)
        answer = await issuer.issue_session_key(asked)
    except Undecodable as error:
        return _refusal_response(400, str(error))
    except Forbidden as error:
        log.warning("session_key_refused", reason=str(error), **_request_fields_for_log(asked))
        return _refusal_response(403, str(error))
    except (RetryLater, ConfigurationError) as error:
        log.warning("session_key_not_issued", error=str(error), **_request_fields_for_log(asked))
        return _refusal_response(503, str(error))
    return Response(answer, media_type="application/octet-stream")


def _request_fields_for_log(asked: SessionKeyAsked) -> dict[str, str]:
    """What the log shows of a request."""
    names = {"tenant": asked.tenant_id, "task_id": asked.task_id, "session_id": asked.session_id}
    return {what: name[:MAX_NAMED_CHARS] for what, name in names.items()}


def _refusal_response(status: int, reason: str) -> Response:
    return JSONResponse({"reason": reason}, status)
