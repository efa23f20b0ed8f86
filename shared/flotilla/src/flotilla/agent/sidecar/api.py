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

from flotilla.agent.chat_api import MAX_CHAT_BODY_BYTES
from flotilla.agent.gates import ApprovalPending
from flotilla.agent.loopback import answer_chat_request, read_limited_body
from flotilla.agent.sidecar.failures import RemoteFailure, failure_from_exception
from flotilla.agent.sidecar.offers import AgentOffer
from flotilla.agent.sidecar.worker import ConnectedWorker, WorkerTaskRun
from flotilla.agent.wrapped_errors import TaskCancelled
from flotilla.contracts.envelope import from_json, to_builtins, to_json
from flotilla.contracts.errors import Conflict, Forbidden, Invalid, NotFound, RetryLater
from flotilla.contracts.session_events import SessionEventKind

RunEndpoint: TypeAlias = Callable[[Request, WorkerTaskRun, bytes], Awaitable[Any]]
KEEPALIVE_INTERVAL_S = 10.0
"""An empty line in between shows that the sidecar lives."""
_STATUS_BY_ERROR: tuple[tuple[type[BaseException], HTTPStatus], ...] = (
    (Forbidden, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (ApprovalPending, HTTPStatus.CONFLICT),
    (TaskCancelled, HTTPStatus.CONFLICT),
    (RetryLater, HTTPStatus.SERVICE_UNAVAILABLE),
    (Exception, HTTPStatus.UNPROCESSABLE_ENTITY),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ToolCallBody:
    arguments: dict[str, Any] = field(default_factory=dict)
    within: str | None = None
    """The call whose tool makes this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ToolCallAnswerBody:
    returned: Any = None
    failure: RemoteFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunEndBody:
    result: dict[str, Any] | None = None
    failure: RemoteFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordEventBody:
    kind: SessionEventKind
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _TextBody:
    text: str = ""


class SidecarApi:
    """Where the worker connects: one at a time."""

    def __init__(self, agent: str, key: str) -> None:
        self._agent = agent
        self._key = key
        self._worker: ConnectedWorker | None = None
        self._arrived: asyncio.Queue[ConnectedWorker] = asyncio.Queue()

    async def check_worker_connected(self) -> None:
        """Raise RetryLater while no worker is connected: a readiness check."""
        if self._worker is None:
            raise RetryLater("no worker is connected: start the program that has the agent's function")

    async def wait_for_worker(self) -> ConnectedWorker:
        """Wait for the next one."""
        return await self._arrived.get()

    def make_app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/v1/worker", self._authenticate_and_map_errors(self._connect_worker), methods=["POST"]),
                Route(
                    "/v1/worker/leave", self._authenticate_and_map_errors(self._note_worker_leaving), methods=["POST"]
                ),
                self._make_run_route("/end", _end_run),
                self._make_run_route("/tools/{tool}", _call_tool),
                self._make_run_route("/calls/{call}", _store_tool_call_answer),
                self._make_run_route("/events", _record_event),
                self._make_run_route("/progress", _report_progress),
                self._make_run_route("/tokens", _emit_token),
                self._make_run_route("/tokens/discard", _discard_tokens),
                self._make_run_route("/turns", _list_session_turns, "GET"),
                Route(
                    "/v1/runs/{run}/openai/v1/{path:path}",
                    self._authenticate_and_map_errors(self._answer_chat_request),
                    methods=["GET", "POST"],
                ),
            ]
        )

    def _make_run_route(self, path: str, answer: RunEndpoint, method: str = "POST") -> Route:
        async def endpoint(request: Request) -> Response:
            run = self._find_run(request)
            return _json_response(await answer(request, run, await _read_body(request)))

        return Route(f"/v1/runs/{{run}}{path}", self._authenticate_and_map_errors(endpoint), methods=[method])

    def _authenticate_and_map_errors(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Any]:
        """Answer those who have the key, and errors in one form."""

        async def answer(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self._key.encode()):
                return _error_response(Forbidden("the key is not that of this sidecar: FLOTILLA_SIDECAR_KEY"), 401)
            try:
                return await endpoint(request)
            except (Exception, ApprovalPending) as error:  # noqa: BLE001 - the worker gets it, whatever it is
                return _error_response(error)

        return answer

    def _find_run(self, request: Request) -> WorkerTaskRun:
        if self._worker is None:
            raise NotFound("the run is over")
        return self._worker.find_run(request.path_params["run"])

    async def _connect_worker(self, request: Request) -> Response:
        offer = from_json(await _read_body(request), AgentOffer)
        if offer.name != self._agent:
            raise Forbidden(f"this sidecar serves agent {self._agent} (FLOTILLA_AGENT_NAME), not {offer.name}")
        if self._worker is not None:
            raise Conflict(f"a worker of agent {self._agent} is connected already")
        self._worker = worker = ConnectedWorker(offer)
        self._arrived.put_nowait(worker)
        return _WorkerStreamResponse(worker, self._forget_worker)

    def _forget_worker(self, worker: ConnectedWorker) -> None:
        self._worker = None
        worker.mark_lost()

    async def _note_worker_leaving(self, _request: Request) -> Response:
        if self._worker is not None:
            self._worker.leaving.set()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _answer_chat_request(self, request: Request) -> Response:
        run, body = self._find_run(request), await read_limited_body(request)
        return await run.do_within_task(
            answer_chat_request(run.chat_api, request.method, request.path_params["path"], body)
        )


class _WorkerStreamResponse(StreamingResponse):
    """The lines for a worker. However it ends, even before it has begun, the worker is gone."""

    def __init__(self, worker: ConnectedWorker, lost: Callable[[ConnectedWorker], None]) -> None:
        super().__init__(_worker_lines(worker), media_type="application/x-ndjson")
        self._worker = worker
        self._lost = lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them until the worker leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._lost(self._worker)


async def _worker_lines(worker: ConnectedWorker) -> AsyncIterator[bytes]:
    while (line := await worker.next_line_for_worker(KEEPALIVE_INTERVAL_S)) is not None:
        yield (to_json(line) if line else b"") + b"\n"


async def _end_run(_request: Request, run: WorkerTaskRun, body: bytes) -> None:
    end = from_json(body, _RunEndBody)
    run.end_run(end.result, end.failure)


async def _call_tool(request: Request, run: WorkerTaskRun, body: bytes) -> Any:
    asked = from_json(body, _ToolCallBody)
    returned = await run.do_within_task(run.ctx.tool(request.path_params["tool"], **asked.arguments), asked.within)
    return {"returned": to_builtins(returned)}


async def _store_tool_call_answer(request: Request, run: WorkerTaskRun, body: bytes) -> None:
    answer = from_json(body, _ToolCallAnswerBody)
    run.store_tool_call_answer(request.path_params["call"], answer.returned, answer.failure)


async def _record_event(_request: Request, run: WorkerTaskRun, body: bytes) -> None:
    recorded = from_json(body, _RecordEventBody)
    run.ctx.record(recorded.kind, recorded.data)


async def _report_progress(_request: Request, run: WorkerTaskRun, body: bytes) -> None:
    await run.do_within_task(run.ctx.progress(from_json(body, _TextBody).text))


async def _emit_token(_request: Request, run: WorkerTaskRun, body: bytes) -> None:
    await run.do_within_task(run.ctx.emit_token(from_json(body, _TextBody).text))


async def _discard_tokens(_request: Request, run: WorkerTaskRun, _body: bytes) -> None:
    await run.do_within_task(run.ctx.discard_tokens())


async def _list_session_turns(request: Request, run: WorkerTaskRun, _body: bytes) -> Any:
    limit = request.query_params.get("limit", "10")
    if not limit.isascii() or not limit.isdigit():
        raise Invalid(f"limit is {limit!r}: use a number")
    return {"turns": to_builtins(await run.do_within_task(_load_earlier_turns(run, int(limit))))}


async def _load_earlier_turns(run: WorkerTaskRun, limit: int) -> Any:
    return await run.ctx.session.turns(limit)


async def _read_body(request: Request) -> bytes:
    body = await read_limited_body(request)
    if body is None:
        raise Invalid(f"a body has at most {MAX_CHAT_BODY_BYTES} bytes")
    return body


def _json_response(value: Any) -> Response:
    if value is None:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return Response(to_json(value), media_type="application/json")


def _error_response(error: BaseException, status: int | None = None) -> Response:
    found = status or next(status for kind, status in _STATUS_BY_ERROR if isinstance(error, kind) or kind is Exception)
    return Response(
        to_json({"failure": failure_from_exception(error)}), status_code=found, media_type="application/json"
    )
