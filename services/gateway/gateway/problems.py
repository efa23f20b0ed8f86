"""Errors as problem documents (RFC 9457): one place says which error becomes which status.

HttpProblem
├── Unauthenticated   401  no credentials, or none that hold
│   └── WrongCredentials   some, but they do not hold
├── MalformedSubject  400  the header `Flotilla-On-Behalf-Of` names nobody
├── TooLarge          413
├── NotJson           415
└── TooMany           429  come back after `retry_after_s`
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import asyncpg
import structlog
from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from pydantic import BaseModel, ValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import (
    Conflict,
    DeadLetter,
    FlotillaError,
    Forbidden,
    Invalid,
    NotFound,
    Parked,
    Refused,
    RetryLater,
    RunInProgress,
    SequenceConflict,
)
from flotilla.postgres import AWAY, UNSTORABLE

M = TypeVar("M", bound=BaseModel)
MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:flotilla:problem:"
RETRY_AFTER_S = 1
log = structlog.get_logger(__name__)


def snake_case(name: str) -> str:
    """`SelfApproval` as `self_approval`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class HttpProblem(HTTPException):
    """A refusal that only exists over HTTP."""

    code = "http"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


class Unauthenticated(HttpProblem):
    """No credentials, or none that hold. Never says which part of them is wrong."""

    code = "unauthenticated"

    def __init__(self, detail: str) -> None:
        super().__init__(401, detail, {"WWW-Authenticate": 'Bearer realm="flotilla"'})


class WrongCredentials(Unauthenticated):
    """Credentials that do not hold; such attempts are counted."""


class TooLarge(HttpProblem):
    """The body is over the route's limit."""

    code = "too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the body is over {limit_bytes} bytes: send less, or in several requests")


class NotJson(HttpProblem):
    """The route reads JSON and got something else."""

    code = "not_json"

    def __init__(self, media_type: str) -> None:
        super().__init__(415, f"this takes JSON, not {media_type}: send Content-Type: application/json")


class TooMany(HttpProblem):
    """A limit of the caller, or of their tenant, is reached; `limit` is its setting."""

    code = "too_many"

    def __init__(self, detail: str, retry_after_s: float, *, limit: str | None = None) -> None:
        super().__init__(429, detail, {"Retry-After": str(max(1, math.ceil(retry_after_s)))})
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document. `code` is stable, for programs; `detail` is for people."""

    status: int
    code: str
    detail: str
    errors: Sequence[Mapping[str, object]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    limit: str | None = None
    """The setting of the limit that is reached."""

    def to_response(self) -> Response:
        """The document as it goes out, with the trace to ask about."""
        document: dict[str, object] = {
            "type": TYPE_PREFIX + self.code,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            document["errors"] = self.errors
        if self.limit is not None:
            document["limit"] = self.limit
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            document["trace_id"] = format(context.trace_id, "032x")
        return Response(to_json(document), self.status, dict(self.headers), MEDIA_TYPE)


_RETRY = {"Retry-After": str(RETRY_AFTER_S)}
_NOT_INSTALLED = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)
# First match wins, so a class comes before its parent.
_OF_FLOTILLA: tuple[tuple[type[FlotillaError], int, str], ...] = (
    (RunInProgress, 409, "run_in_progress"),
    (SequenceConflict, 409, "sequence_conflict"),
    (Conflict, 409, "conflict"),
    (NotFound, 404, "not_found"),
    (Forbidden, 403, "forbidden"),
    (Invalid, 422, "invalid"),
    (Refused, 422, "refused"),
    (DeadLetter, 422, "invalid"),
    (Parked, 503, "parked"),
    (RetryLater, 503, "unavailable"),
)


def problem_from_error(error: Exception) -> Problem:
    """The answer to a client about `error`. An error that nobody foresaw is a 500 without its text."""
    if isinstance(error, FlotillaError):
        return _of_flotilla(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "incomplete", "the client closed the connection before its whole request had arrived")
    return _of_dependency(error) or Problem(
        500, "internal", "something went wrong here; the trace id finds it in the logs"
    )


def _of_flotilla(error: FlotillaError) -> Problem:
    for kind, status, code in _OF_FLOTILLA:
        if isinstance(error, kind):
            headers = _RETRY if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
            return Problem(status, getattr(error, "code", code), str(error), headers=headers)
    return Problem(500, "internal", "something went wrong here; the trace id finds it in the logs")


def checked_model(kind: type[M], **values: Any) -> M:
    """Return the body of a request that came in another form than `kind`.

    Raises:
        RequestValidationError: it is not one.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in problems]) from error


def wrong_parameter(name: str, message: str, *place: str | int) -> RequestValidationError:
    """Return the error of a field of the body, or of a `place` in it."""
    return RequestValidationError([{"type": "value_error", "loc": ("body", name, *place), "msg": message}])


def _of_validation(error: RequestValidationError) -> Problem:
    errors = [_field_error(one, error.body) for one in error.errors()]
    first = f": {errors[0]['pointer']}: {errors[0]['detail']}" if errors else ""
    return Problem(422, "invalid", f"the request does not fit its schema{first}", errors)


def _field_error(error: Mapping[str, Any], body: object) -> dict[str, object]:
    where, *path = error["loc"]
    detail = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return {"pointer": "#", "detail": f"JSON decode error at character {path[0]}: {error['ctx']['error']}"}
    if where == "body" and body is not None:
        path = _places(body, path, is_missing=error["type"] == "missing")
    pointer = "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path)
    place = f"#/{pointer}".rstrip("/") if where == "body" else f"{where} {pointer}"
    return {"pointer": place.encode(errors="replace").decode(), "detail": detail}


def _places(body: Any, path: Sequence[str | int], *, is_missing: bool) -> list[str | int]:
    """Return the parts of an error's path that are places in the body: the others name what of a union was tried.
    The last one is a place that the body does not have where something `is_missing`."""
    places: list[str | int] = []
    for number, part in enumerate(path, start=1):
        if _has(body, part):
            body = body[part]
        elif not (is_missing and number == len(path)):
            continue
        places.append(part)
    return places


def _has(body: object, part: str | int) -> bool:
    if isinstance(body, list):
        return isinstance(part, int) and part < len(body)
    return isinstance(body, Mapping) and part in body


def _of_http(error: HTTPException) -> Problem:
    headers = error.headers or {}
    if isinstance(error, HttpProblem):
        limit = error.limit if isinstance(error, TooMany) else None
        return Problem(error.status_code, error.code, error.detail, headers=headers, limit=limit)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's word for a body that can't be parsed
        return Problem(422, "invalid", error.detail)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return Problem(error.status_code, code, error.detail, headers=headers)


def _of_dependency(error: Exception) -> Problem | None:
    if isinstance(error, _NOT_INSTALLED):
        return Problem(503, "unavailable", "the database has no schema yet: run the installer", headers=_RETRY)
    if isinstance(error, asyncpg.InsufficientPrivilegeError) and "row-level security" in str(error):
        detail = "you may read this session, not change it: ask its owner to share it with you"
        return Problem(HTTPStatus.FORBIDDEN, "forbidden", detail)
    if isinstance(error, UNSTORABLE):
        return Problem(422, "invalid", f"a value can't be stored: {error}")
    if isinstance(error, (*AWAY, RedisError, TimeoutError)):
        log.warning("dependency_away", error=str(error) or type(error).__name__)
        return Problem(503, "unavailable", "a store does not answer; ask again", headers=_RETRY)
    return None
