"""Actions and their typed arguments: built-in ones, and those of installed packages. The worker has the handlers."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Literal

from flotilla.approvals.plugins import load_plugins
from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.errors import ConfigurationError, Invalid, Undecodable
from flotilla.contracts.json_types import JsonObject, JsonValue

GROUP = "flotilla.actions"


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


BUILTIN: Mapping[str, type[Any]] = {
    "echo": EchoArgs,
    "http_request": HttpRequestArgs,
    "publish_answer": PublishAnswerArgs,
}


@cache
def known_actions() -> Mapping[str, type[Any]]:
    """What each action takes: the built-in ones, and installed packages' entry points in group `flotilla.actions`.

    Raises:
        ConfigurationError: an entry point can't be loaded, is no dataclass, or has the name of another action.
    """
    plugins = load_plugins(GROUP, taken=BUILTIN)
    for name, kind in plugins.items():
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise ConfigurationError(f"entry point {name} in {GROUP} must name the dataclass of its arguments")
    return {**BUILTIN, **plugins}


def check_args(action: str, args: JsonObject) -> None:
    """Whether `args` are what `action` takes.

    Raises:
        Invalid: no such action, a missing or unknown argument, or one of the wrong type.
    """
    known = known_actions()
    kind = known.get(action)
    if kind is None:
        raise Invalid(f"no action {action!r}: known are {', '.join(sorted(known))}")
    if unknown := set(args) - set(kind.__dataclass_fields__):
        raise Invalid(f"action {action} takes no argument {', '.join(sorted(unknown))}")
    try:
        from_builtins(args, kind)
    except Undecodable as error:
        raise Invalid(f"action {action}: {error}") from error
