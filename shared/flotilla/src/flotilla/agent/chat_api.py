"""OpenAI's chat completions for one run of a task: the same requests, answers and errors, over the stored answers.

`ctx.openai()` calls it without a connection, the loopback endpoint over HTTP.
"""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import FlotillaError, Invalid, NotFound, Refused, RetryLater
from flotilla.contracts.json_types import JsonObject
from flotilla.llm import BudgetSpent, Completion, CompletionRequest, ModelTimedOut, OnToken
from flotilla.llm.chat_completion import completion_document, final_chunks, text_chunk
from flotilla.llm.chat_request import DEFAULT_MODEL, parse_chat_request

MAX_CHAT_BODY_BYTES = 32_000_000
_STATUS_BY_ERROR: tuple[tuple[type[FlotillaError], int, str, str], ...] = (
    (BudgetSpent, 429, "insufficient_quota", "insufficient_quota"),
    (NotFound, 404, "invalid_request_error", "model_not_found"),
    (Refused, 400, "invalid_request_error", "refused"),
    (ModelTimedOut, 504, "server_error", "timeout"),
    (RetryLater, 503, "server_error", "unavailable"),
    (FlotillaError, 500, "server_error", "failed"),
)
"""HTTP status, type and code, by kind of error; the first that fits."""
_UNSUPPORTED_PATH_MESSAGE = (
    "not supported here: answers of chat completions alone are stored; use your framework's model for those"
)


class ModelCaller(Protocol):
    """What the API asks: `TaskContext`."""

    @property
    def model_name(self) -> str:
        """The model that answers."""

    def raise_if_approval_pending(self) -> None:
        """Raises ApprovalPending once the task waits for people."""

    async def llm(self, request: CompletionRequest, *, on_token: OnToken | None = None) -> Completion:
        """The stored answer, or the model's after it is stored."""

    async def emit_token(self, text: str) -> None:
        """Shows a piece of the answer to clients that watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResponse:
    """An answer over HTTP: a document, or the events of a stream where one was asked for."""

    status: int = 200
    document: dict[str, Any] = field(default_factory=dict)
    events: AsyncIterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cause: FlotillaError | None = None
    """The error that the document describes."""


_AnswerPiece: TypeAlias = str | Completion | BaseException


class ChatApi:
    """The API for one run of a task. With `shows`, what is streamed is shown to those who watch the run, too."""

    def __init__(self, ctx: ModelCaller, *, shows: bool) -> None:
        self._ctx = ctx
        self._shows = shows
        self._streams: set[asyncio.Task[None]] = set()

    async def answer_request(self, method: str, path: str, body: bytes) -> ChatResponse:
        """Answer one request; `path` is what follows the base URL.

        Raises:
            ApprovalPending: the task waits for people, and goes no further in this run.
            TaskCancelled: it is not wanted any more.
        """
        self._ctx.raise_if_approval_pending()
        routes: dict[tuple[str, str], Callable[[bytes], Awaitable[ChatResponse]]] = {
            ("GET", "models"): self._list_models,
            ("POST", "chat/completions"): self._answer_chat_completion,
        }
        route = routes.get((method, path.strip("/")))
        if route is None:
            return openai_error_response(
                404,
                "invalid_request_error",
                "unsupported",
                f"{method} /{path.strip('/')} is {_UNSUPPORTED_PATH_MESSAGE}",
            )
        try:
            return await route(body)
        except FlotillaError as error:
            return error_response(error)

    async def close(self) -> None:
        """End the streams that nobody read to their end."""
        streams = list(self._streams)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _list_models(self, _body: bytes) -> ChatResponse:
        names = dict.fromkeys((DEFAULT_MODEL, self._ctx.model_name))
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "flotilla"} for name in names]
        return ChatResponse(document={"object": "list", "data": models})

    async def _answer_chat_completion(self, body: bytes) -> ChatResponse:
        asked = _decode_request_body(body)
        request = parse_chat_request(asked)
        self._check_model(asked.get("model"))
        head = _make_completion_head(request, asked["model"])
        if not asked.get("stream"):
            return ChatResponse(document=completion_document(await self._ctx.llm(request), head))
        options = asked.get("stream_options")
        with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return await self._stream_completion(request, head, with_usage=with_usage)

    def _check_model(self, name: object) -> None:
        if name not in (DEFAULT_MODEL, self._ctx.model_name):
            raise NotFound(
                f"model {name!r} is not this agent's: ask for {self._ctx.model_name!r} or {DEFAULT_MODEL!r}, or set "
                "FLOTILLA_LLM_MODEL"
            )

    async def _stream_completion(
        self, request: CompletionRequest, head: JsonObject, *, with_usage: bool
    ) -> ChatResponse:
        """Wait for the beginning of the answer, so that a refusal is one; the rest follows as events."""
        pieces: asyncio.Queue[_AnswerPiece] = asyncio.Queue()
        work = asyncio.create_task(self._queue_answer_pieces(request, pieces))
        self._streams.add(work)
        work.add_done_callback(self._streams.discard)
        first = await pieces.get()
        if isinstance(first, BaseException):
            raise first
        return ChatResponse(events=_completion_events(first, pieces, dict(head), with_usage=with_usage))

    async def _queue_answer_pieces(self, request: CompletionRequest, pieces: "asyncio.Queue[_AnswerPiece]") -> None:
        async def write(text: str) -> None:
            if self._shows:
                await self._ctx.emit_token(text)
            pieces.put_nowait(text)

        try:
            pieces.put_nowait(await self._ctx.llm(request, on_token=write))
        except BaseException as error:  # noqa: BLE001 - it is raised where the stream is read
            pieces.put_nowait(error)


async def _completion_events(
    first: _AnswerPiece, pieces: "asyncio.Queue[_AnswerPiece]", head: dict[str, Any], *, with_usage: bool
) -> AsyncIterator[bytes]:
    piece = first
    while not isinstance(piece, Completion):
        if isinstance(piece, BaseException):
            raise piece
        yield text_chunk(piece, head)
        piece = await pieces.get()
    for chunk in final_chunks(piece, head, with_usage=with_usage):
        yield chunk


def error_response(error: FlotillaError) -> ChatResponse:
    """The answer that says what `error` says. Clients don't try again by themselves: retries are the workflow's."""
    status, kind, code = next(found[1:] for found in _STATUS_BY_ERROR if isinstance(error, found[0]))
    return openai_error_response(status, kind, code, str(error), error)


def openai_error_response(
    status: int, kind: str, code: str, message: str, cause: FlotillaError | None = None
) -> ChatResponse:
    """The answer of an error in OpenAI's form."""
    headers = {"x-should-retry": "false"}
    wait_s = getattr(cause, "retry_after_s", None)
    if wait_s is not None:
        headers["retry-after"] = str(math.ceil(wait_s))
    document = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return ChatResponse(status=status, document=document, headers=headers, cause=cause)


def _decode_request_body(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_CHAT_BODY_BYTES:
        raise Invalid(f"the body has {len(body)} bytes, {MAX_CHAT_BODY_BYTES} are allowed")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise Invalid(f"the body is a JSON object, not {type(asked).__name__}")
    return asked


def _make_completion_head(request: CompletionRequest, model: object) -> dict[str, Any]:
    name = hashlib.sha256(to_json(request.body)).hexdigest()[:24]
    return {"id": f"chatcmpl-{name}", "created": int(time.time()), "model": model}
