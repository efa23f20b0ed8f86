"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from flotilla.contracts.errors import Invalid, NotFound
from gateway.problems import HttpProblem, Problem

PREFIX = "/openai/"
_STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 504)
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAIErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error as OpenAI's clients read it."""

    error: OpenAIErrorBody


class ModelNotFound(NotFound):
    """The fleet has no model of that name."""

    code = "model_not_found"


class PreviousResponseNotFound(NotFound):
    """There is no response to be continued, or it is another person's."""

    code = "previous_response_not_found"


class ContextTooLong(Invalid):
    """The question or the conversation has more than a run takes."""

    code = "context_length_exceeded"


class RunFailed(HttpProblem):
    """The run ended without an answer."""

    code = "run_failed"


class AnswerRestarted(HttpProblem):
    """A second attempt wrote another text than the one that was streamed already."""

    code = "answer_restarted"


class StillRunning(HttpProblem):
    """The answer takes longer than the request may."""

    code = "timeout"


def openai_error_body(problem: Problem) -> dict[str, Any]:
    """Return `problem` in OpenAI's shape."""
    return {
        "error": {
            "message": problem.detail,
            "type": _TYPES.get(problem.status, _type(problem.status)),
            "param": _param(problem),
            "code": _CODES.get(problem.status, problem.code),
        }
    }


def openai_error_response(problem: Problem) -> Response:
    """Return `problem` as a response. A request that does not fit is a 400, as at OpenAI."""
    status = HTTPStatus.BAD_REQUEST if problem.status in {415, 422} else problem.status
    return JSONResponse(openai_error_body(problem), status, dict(problem.headers))


def documented_errors(*more: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of errors."""
    response: dict[str, Any] = {"model": OpenAIError, "description": "An error in OpenAI's shape."}
    return dict.fromkeys((*_STATUSES, *more), response)


def _type(status: int) -> Literal["server_error", "invalid_request_error"]:
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def _param(problem: Problem) -> str | None:
    """Return the first field that does not fit, as `messages[0].content`."""
    pointer = str(problem.errors[0].get("pointer", "")) if problem.errors else ""
    if not pointer.startswith("#/"):
        return None
    first, *rest = pointer[2:].split("/")
    return first + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)
