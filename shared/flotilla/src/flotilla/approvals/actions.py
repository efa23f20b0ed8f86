"""The built-in actions and their typed arguments. The worker has the handlers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.errors import Invalid, Undecodable
from flotilla.contracts.json_types import JsonObject, JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoArgs:
    """`echo`: gives `text` back; for trials."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequestArgs:
    """`http_request`: one request to an allow-listed host, with the action's id as its Idempotency-Key."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    url: str
    json: JsonValue = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishAnswerArgs:
    """`publish_answer`: publishes the answer of a finished run."""

    run_id: str


ARGUMENTS: Mapping[str, type[Any]] = {
    "echo": EchoArgs,
    "http_request": HttpRequestArgs,
    "publish_answer": PublishAnswerArgs,
}


def check_args(action: str, args: JsonObject, known: Mapping[str, type[Any]] = ARGUMENTS) -> None:
    """Whether `args` are what `action` takes.

    Raises:
        Invalid: no such action, a missing or unknown argument, or one of the wrong type.
    """
    kind = known.get(action)
    if kind is None:
        raise Invalid(f"no action {action!r}: known are {', '.join(sorted(known))}")
    if unknown := set(args) - set(kind.__dataclass_fields__):
        raise Invalid(f"action {action} takes no argument {', '.join(sorted(unknown))}")
    try:
        from_builtins(args, kind)
    except Undecodable as error:
        raise Invalid(f"action {action}: {error}") from error
