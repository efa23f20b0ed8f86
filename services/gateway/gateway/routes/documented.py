"""How routes describe their refusals in the OpenAPI document."""

from typing import Any, TypeAlias

from gateway.problems import MEDIA_TYPE

Responses: TypeAlias = dict[int | str, dict[str, Any]]
PROBLEM_SCHEMA = "#/components/schemas/ProblemDocument"
_ALWAYS = (401, 403, 422, 429, 503)
_RETRIED = (429, 503)
_MEANING = {
    400: "The header `Flotilla-On-Behalf-Of` names nobody.",
    401: "No credentials, or none that hold.",
    403: "The role is missing.",
    404: "No such thing for this tenant.",
    409: "In conflict with how things stand; `code` says with what.",
    413: "The body is too large.",
    415: "This takes JSON.",
    421: "The Host header has a name that is not the gateway's.",
    422: "The request does not fit its schema; `errors` says where.",
    429: "A limit of the person, service or tenant is reached: `limit` says which, `Retry-After` when to come back.",
    503: "Something that is needed does not answer; `Retry-After` says when to come back.",
}


def documented_errors(*statuses: int) -> Responses:
    """Problem documents for `statuses` and for those that every route may answer with."""
    return {status: _problem(status) for status in sorted({*_ALWAYS, *statuses})}


def _problem(status: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "description": _MEANING[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": PROBLEM_SCHEMA}}},
    }
    if status in _RETRIED:
        document["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return document
