"""Errors in A2A's shape.

What the protocol has a code for is one of its errors; who may not call, limits and stores that are away are HTTP's, as
the specification asks, with the protocol's body.
"""

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from a2a.types.a2a_pb2 import Task
from a2a.utils.errors import (
    A2AError,
    InvalidParamsError,
    InvalidRequestError,
    JSONParseError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from gateway.problems import Problem, problem_from_error

PREFIX = "/a2a/"
_JSON_RPC_INVALID = -32600
_JSON_RPC_PARSE = -32700
_NAMES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
_OF_STATUS: dict[int, Callable[[str], A2AError]] = {
    400: InvalidParamsError,
    404: TaskNotFoundError,
    409: UnsupportedOperationError,
    422: InvalidParamsError,
}
_STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 500, 503)


class A2AErrorBody(BaseModel):
    """What went wrong: `google.rpc.Status`."""

    code: int
    status: str
    message: str
    details: list[dict[str, Any]] = []


class A2AErrorDocument(BaseModel):
    """An error as A2A's HTTP+JSON binding has it."""

    error: A2AErrorBody


def documented_errors() -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of errors."""
    response: dict[str, Any] = {"model": A2AErrorDocument, "description": "An error in A2A's shape."}
    return dict.fromkeys(_STATUSES, response)


def silence_sdk_logs() -> None:
    """Keep the SDK from logging what clients sent: what is refused is answered, and what fails is logged here."""
    logging.getLogger("a2a").setLevel(logging.CRITICAL)


def a2a_error(error: Exception) -> A2AError | None:
    """Return the protocol's error for `error`; None where HTTP has to say it."""
    problem = problem_from_error(error)
    kind = _OF_STATUS.get(problem.status)
    return kind(problem.detail) if kind else None


def problem_response(problem: Problem, path: str) -> Response:
    """Return a problem that came before the protocol's own code, or that HTTP has to say, as a response."""
    is_rpc = len(path.removeprefix(PREFIX).strip("/").split("/")) == 2  # noqa: PLR2004 - kind and name
    status = HTTPStatus.BAD_REQUEST if problem.status in {415, 422} else HTTPStatus(problem.status)
    if is_rpc and status is HTTPStatus.BAD_REQUEST:
        kind = JSONParseError if "JSON decode" in problem.detail else InvalidRequestError
        code = _JSON_RPC_PARSE if kind is JSONParseError else _JSON_RPC_INVALID
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": problem.detail}})
    name = _NAMES.get(status, "INTERNAL" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "INVALID_ARGUMENT")
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": problem.code.upper(),
        "domain": "a2a-protocol.org",
        "metadata": {},
    }
    body = {"error": {"code": int(status), "status": name, "message": problem.detail, "details": [detail]}}
    return JSONResponse(body, status, dict(problem.headers))


def task_ended_error(task: Task) -> UnsupportedOperationError:
    """Says that the task takes nothing any more."""
    return UnsupportedOperationError(f"task {task.id} is over: send the message without a task id")
