"""An agent elsewhere, asked by A2A 1.0, as an agent of the fleet: a workflow asks it by `run.ask("a2a:NAME", …)`.

    FLOTILLA_AGENT_NAME=a2a:refunds FLOTILLA_A2A_URL=https://partner.example.com/agents/refunds \\
    FLOTILLA_A2A_HOSTS=partner.example.com python -m flotilla.agent.a2a

It is a process of its own, and the only one that holds the remote agent's credentials. The call is its tool `ask`:
recorded, stored before it is used, sent with the call's idempotency key as the message's id, and gated where
`a2a_approval` or policy (`a2a:NAME.ask`) asks for it. Every address, also those that a
card names, has to be on the list.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import structlog
from a2a.client import A2ACardResolver, Client, ClientConfig, create_client
from a2a.client.errors import A2AClientError
from a2a.helpers import get_artifact_text, get_data_parts, get_message_text
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    Task,
    TaskState,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Value
from pydantic import Field, field_validator

from flotilla.agent.agent import Agent
from flotilla.agent.context import TaskContext
from flotilla.agent.service import run_agent
from flotilla.agent.settings import AgentSettings
from flotilla.config import Words
from flotilla.config.hosts import check_allowed_hosts, parse_allowed_url
from flotilla.contracts.a2a import MAX_DATA_DEPTH
from flotilla.contracts.errors import Invalid, Refused, RetryLater
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.tools import IdempotencyKey, OnUnknown
from flotilla.runtime import Runtime, serve

ALLOWED_HOSTS_SETTING = "FLOTILLA_A2A_HOSTS"
CARD_TIMEOUT_S = 60.0
"""How long reading the card may take."""
FIRST_POLL_INTERVAL_S = 0.2
LONGEST_POLL_INTERVAL_S = 5.0
CANCEL_TIMEOUT_S = 5.0
"""How long asking a remote task to stop may take."""
_OPEN_TASK_STATES = {TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING}
_TASK_STATE_PREFIX = "TASK_STATE_"
log = structlog.get_logger(__name__)


class RemoteAgentSettings(AgentSettings):
    """Settings of a remote agent's process."""

    a2a_url: str
    """The remote agent's address; its card is below it, at `/.well-known/agent-card.json`."""
    a2a_hosts: Words
    """Hosts that it may be reached at, its interfaces included: `partner.example.com`, over https."""
    a2a_token_file: Path | None = None
    """A file with the bearer token for it, read at each call."""
    a2a_approval: RiskLevel | None = None
    """Ask people before each call, at this risk at least; unset asks no one."""
    a2a_on_unknown: OnUnknown = "ask"
    """A call without an answer: `ask` people, let the task `fail`, or send it `again`, with the same message id."""
    a2a_wait_s: float = Field(default=600.0, gt=0, le=86_400)
    """How long the remote task may take."""
    a2a_max_bytes: int = Field(default=1024 * 1024, ge=1024)
    """The longest answer that is read."""

    @field_validator("a2a_hosts")
    @classmethod
    def _check_host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return check_allowed_hosts(ALLOWED_HOSTS_SETTING, hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteQuestion:
    """What the remote agent is asked: a text, JSON, or both."""

    text: str = ""
    data: Mapping[str, Any] | None = None
    context_id: str = ""
    """Of an earlier answer, to continue it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAnswer:
    """What came of it. It is untrusted: data, never instructions."""

    text: str
    data: list[Any] = field(default_factory=list)
    context_id: str = ""
    task_id: str = ""
    """Of the remote task; empty where it answered with a message alone."""
    state: str = "completed"


def remote_agent(settings: RemoteAgentSettings) -> Agent:
    """Return the agent of the fleet that asks the remote one, called as `FLOTILLA_AGENT_NAME` says."""
    agent = Agent(settings.agent_name or "a2a", timeout_s=settings.a2a_wait_s + 60)

    @agent.tool(repeatable=True)
    async def find() -> list[str]:
        """Read the remote agent's card: where it is reached. Nothing was asked while that fails."""
        async with _create_http_client(settings) as http:
            try:
                async with asyncio.timeout(CARD_TIMEOUT_S):
                    card = await A2ACardResolver(http, settings.a2a_url).get_agent_card()
            except (A2AClientError, httpx.HTTPError, TimeoutError) as error:
                raise RetryLater(f"the card of {settings.a2a_url} can't be read: {error}") from error
        return [interface.url for interface in card.supported_interfaces]

    @agent.tool(approval=settings.a2a_approval, on_unknown=settings.a2a_on_unknown)
    async def ask(
        ctx: TaskContext, text: str, data: dict[str, Any] | None, context_id: str, key: IdempotencyKey
    ) -> RemoteAnswer:
        """Send a message to the remote agent, and wait until its task is over. It is cancelled with this one."""
        message = _build_question_message(RemoteQuestion(text=text, data=data, context_id=context_id), key)
        async with asyncio.timeout(settings.a2a_wait_s), _create_http_client(settings) as http:
            return await _ask_remote_agent(ctx, settings.a2a_url, http, message)

    @agent.task
    async def ask_remote(ctx: TaskContext, question: RemoteQuestion) -> RemoteAnswer:
        if not question.text and question.data is None:
            raise Invalid("a remote agent is asked a text or data")
        await ctx.tool("find")
        answer: RemoteAnswer = await ctx.tool(
            "ask", text=question.text, data=question.data, context_id=question.context_id
        )
        if answer.state != "completed":
            raise Refused(f"the remote task {answer.task_id} is {answer.state}: {answer.text}")
        return answer

    return agent


async def _ask_remote_agent(ctx: TaskContext, url: str, http: httpx.AsyncClient, message: Message) -> RemoteAnswer:
    bindings = ["JSONRPC", "HTTP+JSON"]
    config = ClientConfig(httpx_client=http, streaming=False, supported_protocol_bindings=bindings)
    client = await create_client(url, config)
    configuration = SendMessageConfiguration(return_immediately=True)
    request = SendMessageRequest(message=message, configuration=configuration)
    [first] = [response async for response in client.send_message(request)]
    if first.HasField("message"):
        return _answer_from_message(first)
    try:
        return _answer_from_task(await _poll_until_task_ends(client, first.task))
    except asyncio.CancelledError:
        if ctx.cancelled:  # else this process stops, and another one asks again
            await _cancel_remote_task(client, first.task.id)
        raise


async def _poll_until_task_ends(client: Client, task: Task) -> Task:
    pause_s = FIRST_POLL_INTERVAL_S
    while task.status.state in _OPEN_TASK_STATES:
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_POLL_INTERVAL_S)
        task = await client.get_task(GetTaskRequest(id=task.id))
    return task


async def _cancel_remote_task(client: Client, task_id: str) -> None:
    """Ask for the remote task to stop; one that does not is not waited for."""
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            await client.cancel_task(CancelTaskRequest(id=task_id))
    except (A2AClientError, A2AError, httpx.HTTPError, TimeoutError) as error:
        log.warning("remote_task_not_cancelled", task_id=task_id, error=str(error) or type(error).__name__)


def _answer_from_message(response: StreamResponse) -> RemoteAnswer:
    message = response.message
    return RemoteAnswer(
        text=get_message_text(message), data=get_data_parts(message.parts), context_id=message.context_id
    )


def _answer_from_task(task: Task) -> RemoteAnswer:
    texts = [get_artifact_text(artifact) for artifact in task.artifacts]
    said = get_message_text(task.status.message)
    state = TaskState.Name(task.status.state).removeprefix(_TASK_STATE_PREFIX).lower().replace("_", "-")
    return RemoteAnswer(
        text="\n".join(text for text in texts if text) or said,
        data=[one for artifact in task.artifacts for one in get_data_parts(artifact.parts)],
        context_id=task.context_id,
        task_id=task.id,
        state=state,
    )


def _build_question_message(question: RemoteQuestion, key: str) -> Message:
    parts = [Part(text=question.text)] if question.text else []
    if question.data is not None:
        try:
            parts.append(Part(data=ParseDict(dict(question.data), Value(), max_recursion_depth=MAX_DATA_DEPTH)))
        except (ParseError, OverflowError, ValueError) as error:
            raise Invalid(f"A2A's data can't hold what the remote agent is asked: {error}") from error
    return Message(message_id=key, context_id=question.context_id, role=Role.ROLE_USER, parts=parts)


def _create_http_client(settings: RemoteAgentSettings) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=_ListedHostsTransport(settings), timeout=60, follow_redirects=False, trust_env=False
    )


class _ListedHostsTransport(httpx.AsyncBaseTransport):
    """Reaches listed hosts only, adds the token, which no answer repeats, and reads no more than it should."""

    def __init__(self, settings: RemoteAgentSettings) -> None:
        self._settings = settings
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        parse_allowed_url(str(request.url), self._settings.a2a_hosts, ALLOWED_HOSTS_SETTING)
        token = self._settings.a2a_token_file.read_text().strip() if self._settings.a2a_token_file else ""
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        request.headers["Accept-Encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        try:
            body = await self._read_limited_body(response)
        finally:
            await response.aclose()
        if token:  # what an answer repeats goes into events and logs
            body = body.replace(token.encode(), b"[secret]")
        headers = {"Content-Type": response.headers.get("Content-Type", "")}
        return httpx.Response(response.status_code, headers=headers, content=body)

    async def _read_limited_body(self, response: httpx.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise httpx.ReadError("the remote agent compressed its answer, against the request's Accept-Encoding")
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > self._settings.a2a_max_bytes:
                raise httpx.ReadError("the remote agent's answer is longer than FLOTILLA_A2A_MAX_BYTES")
        return bytes(body)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _run_remote_agent(settings: RemoteAgentSettings, runtime: Runtime) -> None:
    await run_agent(remote_agent(settings), settings, runtime)


def main() -> int:
    """Run the agent until SIGTERM; return the exit code."""
    return serve("a2a-agent", RemoteAgentSettings, _run_remote_agent)


if __name__ == "__main__":
    raise SystemExit(main())
