"""Which run and session a request of an OpenAI client made: a retry finds its run, a conversation its session."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import NotFound, RunInProgress
from flotilla.contracts.ids import new_id
from flotilla.contracts.tasks import Turn
from flotilla.encryption.tables import OPENAI_REQUESTS
from flotilla.eventstore.turns import newest_turns_within_budget
from flotilla.postgres import Connection, open_row, seal_columns, tenant_transaction
from gateway.auth.principal import Principal
from gateway.idempotency import IdempotencyClaim
from gateway.openai.files import attach
from gateway.openai.messages import FileRef
from gateway.runs.records import get_run
from gateway.runs.starting import start_or_find_run
from gateway.schemas.runs import Run, RunRequest
from gateway.services import GatewayServices

RETRIED_WITHIN = "15 minutes"
_INSERT_OPENAI_REQUESTS = """
INSERT INTO flotilla.openai_requests (tenant_id, run_id, session_id, principal, request_digest, parameters)
VALUES ($1, $2, $3, $4, $5, $6::jsonb)
"""
_SELECT_RETRIED_OPENAI_REQUESTS = f"""
SELECT run_id FROM flotilla.openai_requests
WHERE tenant_id = $1 AND principal = $2 AND request_digest = $3 AND created_at > now() - interval '{RETRIED_WITHIN}'
ORDER BY created_at DESC LIMIT 1
"""  # noqa: S608 - a constant
_SELECT_CONTINUED_OPENAI_REQUESTS = """
SELECT session_id FROM flotilla.openai_requests
WHERE tenant_id = $1 AND principal = $2 AND conversation_digest = $3 ORDER BY created_at DESC LIMIT 1
"""
_NOTE_ANSWER = "UPDATE flotilla.openai_requests SET conversation_digest = $3 WHERE tenant_id = $1 AND run_id = $2"
_SELECT_PARAMETERS_OPENAI_REQUESTS = (
    "SELECT run_id, session_id, parameters FROM flotilla.openai_requests WHERE tenant_id = $1 AND run_id = $2"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIQuestion:
    """A question of an OpenAI client."""

    body: RunRequest
    """What to start."""
    turns: list[Turn]
    """Of the conversation as the client sent it; empty: those of the session count."""
    files: list[FileRef]
    """Attached to the session before the run starts."""
    digest: bytes
    """Of the whole request."""
    parameters: Mapping[str, Any]
    """What a client reads again with the response."""
    session_id: str | None
    """None: that of the conversation, else a new one."""
    conversation: bytes
    """Digest of what was answered before the question; empty where nothing was."""
    is_retry: bool
    """Whether the client says that it sends the request again."""
    key: str | None
    """The Idempotency-Key."""


async def ask(services: GatewayServices, caller: Principal, question: OpenAIQuestion) -> Run:
    """Start a run for `question`, or return the one that the same request started.

    Raises:
        RunInProgress: the session that the client named has an active run.
        IdempotencyConflict: the key was used for another request.
    """
    if question.is_retry and (
        run_id := await _find(services, caller, _SELECT_RETRIED_OPENAI_REQUESTS, question.digest)
    ):
        return await get_run(services.pool, caller.tenant_id, run_id)
    if question.session_id is not None:
        return await _start(services, caller, question, question.session_id)
    session_id = (
        await _find(services, caller, _SELECT_CONTINUED_OPENAI_REQUESTS, question.conversation)
        if question.conversation
        else None
    )
    if session_id is not None:
        try:
            return await _start(services, caller, question, session_id)
        except (RunInProgress, NotFound):  # asked twice at once, or not the caller's any more
            return await _start(services, caller, question, f"chat-{new_id()}")
    return await _start(services, caller, question, f"chat-{new_id()}")


async def record_conversation_end(connection: Connection, tenant_id: str, run_id: str, conversation: bytes) -> None:
    """Note up to where the conversation has come, so that its next question finds its session.

    The answer need not wait for the disk: after a crash of the server the conversation goes on in a new session.
    """
    await connection.execute(_NOTE_ANSWER, tenant_id, run_id, conversation)


async def load_request_parameters(services: GatewayServices, tenant_id: str, run_id: str) -> dict[str, Any]:
    """Return what the client sent with the request of a run; empty for a run that was started otherwise."""
    async with tenant_transaction(services.pool, tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_PARAMETERS_OPENAI_REQUESTS, tenant_id, run_id)
        opened = row and await open_row(connection, tenant_id, OPENAI_REQUESTS, row)
    return dict(json.loads(opened["parameters"])) if opened else {}


async def _find(services: GatewayServices, caller: Principal, query: str, digest: bytes) -> str | None:
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        found: str | None = await connection.fetchval(query, caller.tenant_id, caller.name, digest)
    return found


async def _start(services: GatewayServices, caller: Principal, question: OpenAIQuestion, session_id: str) -> Run:
    await attach(services, caller, session_id, question.files)
    content = [question.digest.hex(), question.session_id]

    async def note(connection: Connection, run_id: str) -> None:
        parameters = to_json(question.parameters).decode()
        stored = await seal_columns(
            connection, caller.tenant_id, session_id, OPENAI_REQUESTS, run_id, parameters=parameters
        )
        place = (caller.tenant_id, run_id, session_id, caller.name)
        await connection.execute(_INSERT_OPENAI_REQUESTS, *place, question.digest, stored["parameters"])

    claim = IdempotencyClaim(caller, "POST /openai/v1", question.key, content)
    history = newest_turns_within_budget(list(reversed(question.turns)))
    return await start_or_find_run(services, session_id, question.body, claim, history=history, note=note)
