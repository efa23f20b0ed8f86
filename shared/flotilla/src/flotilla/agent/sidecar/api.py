"""What the worker asks for, over HTTP on loopback."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from flotilla.agent.chat_api import MAX_BODY_BYTES
from flotilla.agent.gates import ApprovalPending
from flotilla.agent.loopback import chat_answer, limited_body
from flotilla.agent.sidecar.failures import RemoteFailure, failure_of
from flotilla.agent.sidecar.offers import AgentOffer
from flotilla.agent.sidecar.worker import Run, Worker
from flotilla.agent.wrapped_errors import TaskCancelled
from flotilla.contracts.envelope import from_json, to_builtins, to_json
from flotilla.contracts.errors import Conflict, Forbidden, Invalid, NotFound, RetryLater
from flotilla.contracts.session_events import SessionEventKind

Answer: TypeAlias = Callable[[Request, Run, bytes], Awaitable[Any]]
BEAT_S = 10.0
"""An empty line in between shows that the sidecar lives."""
_STATUS: tuple[tuple[type[BaseException], HTTPStatus], ...] = (
    (Forbidden, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (ApprovalPending, HTTPStatus.CONFLICT),
    (TaskCancelled, HTTPStatus.CONFLICT),
    (RetryLater, HTTPStatus.SERVICE_UNAVAILABLE),
    (Exception, HTTPStatus.UNPROCESSABLE_ENTITY),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ToolCall:
    arguments: dict[str, Any] = field(default_factory=dict)
    within: str | None = None
    """The call whose tool makes this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _CallAnswer:
    returned: Any = None
    failure: RemoteFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    result: dict[str, Any] | None = None
    failure: RemoteFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    kind: SessionEventKind
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    text: str = ""


class Desk:
    """Where the worker connects: one at a time."""

    def __init__(self, agent: str, key: str) -> None:
        self._agent = agent
        self._key = key
        self._worker: Worker | None = None
        self._arrived: asyncio.Queue[Worker] = asyncio.Queue()

    async def check_ready(self) -> None:
        """Raise RetryLater while no worker is connected: a readiness check."""
        if self._worker is None:
            raise RetryLater("no worker is connected: start the program that has the agent's function")

    async def next_worker(self) -> Worker:
        """Wait for the next one."""
        return await self._arrived.get()

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/v1/worker", self._guarded(self._connect), methods=["POST"]),
                Route("/v1/worker/leave", self._guarded(self._leave), methods=["POST"]),
                self._route("/end", _end),
                self._route("/tools/{tool}", _call_tool),
                self._route("/calls/{call}", _answer_call),
                self._route("/events", _record),
                self._route("/progress", _progress),
                self._route("/tokens", _emit),
                self._route("/tokens/discard", _discard),
                self._route("/turns", _turns, "GET"),
                Route("/v1/runs/{run}/openai/v1/{path:path}", self._guarded(self._chat), methods=["GET", "POST"]),
            ]
        )

    def _route(self, path: str, answer: Answer, method: str = "POST") -> Route:
        async def endpoint(request: Request) -> Response:
            run = self._run(request)
            return _json(await answer(request, run, await _body(request)))

        return Route(f"/v1/runs/{{run}}{path}", self._guarded(endpoint), methods=[method])

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Any]:
        """Answer those who have the key, and errors in one form."""

        async def answer(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self._key.encode()):
                return _failed(Forbidden("the key is not that of this sidecar: FLOTILLA_SIDECAR_KEY"), 401)
            try:
                return await endpoint(request)
            except (Exception, ApprovalPending) as error:  # noqa: BLE001 - the worker gets it, whatever it is
                return _failed(error)

        return answer

    def _run(self, request: Request) -> Run:
        if self._worker is None:
            raise NotFound("the run is over")
        return self._worker.run_of(request.path_params["run"])

    async def _connect(self, request: Request) -> Response:
        offer = from_json(await _body(request), AgentOffer)
        if offer.name != self._agent:
            raise Forbidden(f"this sidecar serves agent {self._agent} (FLOTILLA_AGENT_NAME), not {offer.name}")
        if self._worker is not None:
            raise Conflict(f"a worker of agent {self._agent} is connected already")
        self._worker = worker = Worker(offer)
        self._arrived.put_nowait(worker)
        return _Connection(worker, self._lost)

    def _lost(self, worker: Worker) -> None:
        self._worker = None
        worker.lose()

    async def _leave(self, _request: Request) -> Response:
        if self._worker is not None:
            self._worker.leaving.set()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _chat(self, request: Request) -> Response:
        run, body = self._run(request), await limited_body(request)
        return await run.do_within_task(chat_answer(run.chat, request.method, request.path_params["path"], body))


class _Connection(StreamingResponse):
    """The lines for a worker. However it ends, even before it has begun, the worker is gone."""

    def __init__(self, worker: Worker, lost: Callable[[Worker], None]) -> None:
        super().__init__(_lines(worker), media_type="application/x-ndjson")
        self._worker = worker
        self._lost = lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them until the worker leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._lost(self._worker)


async def _lines(worker: Worker) -> AsyncIterator[bytes]:
    while (line := await worker.next_line(BEAT_S)) is not None:
        yield (to_json(line) if line else b"") + b"\n"


async def _end(_request: Request, run: Run, body: bytes) -> None:
    end = from_json(body, _End)
    run.end(end.result, end.failure)


async def _call_tool(request: Request, run: Run, body: bytes) -> Any:
    asked = from_json(body, _ToolCall)
    returned = await run.do_within_task(run.ctx.tool(request.path_params["tool"], **asked.arguments), asked.within)
    return {"returned": to_builtins(returned)}


async def _answer_call(request: Request, run: Run, body: bytes) -> None:
    answer = from_json(body, _CallAnswer)
    run.answer_call(request.path_params["call"], answer.returned, answer.failure)


async def _record(_request: Request, run: Run, body: bytes) -> None:
    recorded = from_json(body, _Recorded)
    run.ctx.record(recorded.kind, recorded.data)


async def _progress(_request: Request, run: Run, body: bytes) -> None:
    await run.do_within_task(run.ctx.progress(from_json(body, _Text).text))


async def _emit(_request: Request, run: Run, body: bytes) -> None:
    await run.do_within_task(run.ctx.emit_token(from_json(body, _Text).text))


async def _discard(_request: Request, run: Run, _body: bytes) -> None:
    await run.do_within_task(run.ctx.discard_tokens())


async def _turns(request: Request, run: Run, _body: bytes) -> Any:
    limit = request.query_params.get("limit", "10")
    if not limit.isascii() or not limit.isdigit():
        raise Invalid(f"limit is {limit!r}: use a number")
    return {"turns": to_builtins(await run.do_within_task(_earlier(run, int(limit))))}


async def _earlier(run: Run, limit: int) -> Any:
    return await run.ctx.session.turns(limit)


async def _body(request: Request) -> bytes:
    body = await limited_body(request)
    if body is None:
        raise Invalid(f"a body has at most {MAX_BODY_BYTES} bytes")
    return body


def _json(value: Any) -> Response:
    if value is None:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return Response(to_json(value), media_type="application/json")


def _failed(error: BaseException, status: int | None = None) -> Response:
    found = status or next(status for kind, status in _STATUS if isinstance(error, kind) or kind is Exception)
    return Response(to_json({"failure": failure_of(error)}), status_code=found, media_type="application/json")
