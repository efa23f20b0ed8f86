"""Actions and their typed arguments: built-in ones, and those of installed packages. The worker has the handlers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Literal

from flotilla.actions.plugins import load_entry_point_objects
from flotilla.contracts.envelope import from_builtins, to_builtins
from flotilla.contracts.errors import ConfigurationError, Invalid, Undecodable
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.values import first_infinite

ACTION_ARGUMENTS_ENTRY_POINTS = "flotilla.actions"
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1


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


BUILTIN_ARGUMENT_TYPES: Mapping[str, type[Any]] = {
    "echo": EchoArgs,
    "http_request": HttpRequestArgs,
    "publish_answer": PublishAnswerArgs,
}


@cache
def load_action_argument_types() -> Mapping[str, type[Any]]:
    """What each action takes: the built-in ones, and installed packages' entry points in group `flotilla.actions`.

    Raises:
        ConfigurationError: an entry point can't be loaded, is not a dataclass, or has the name of another action.
    """
    plugins = load_entry_point_objects(ACTION_ARGUMENTS_ENTRY_POINTS, taken=BUILTIN_ARGUMENT_TYPES)
    for name, kind in plugins.items():
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise ConfigurationError(
                f"entry point {name} in {ACTION_ARGUMENTS_ENTRY_POINTS} must name the dataclass of its arguments"
            )
    return {**BUILTIN_ARGUMENT_TYPES, **plugins}


def check_action_args(action: str, args: JsonObject) -> None:
    """Check that `args` are what `action` takes.

    Raises:
        Invalid: as `normalize_action_args`.
    """
    normalize_action_args(action, args)


def normalize_action_args(action: str, args: JsonObject) -> JsonObject:
    """Return `args` as the action's handler will get them, defaults filled in: the one form that is assessed, hashed,
    shown and executed.

    Raises:
        Invalid: no such action, a missing or unknown argument, one of the wrong type, or a number that would not be
            shown as it is.
    """
    known = load_action_argument_types()
    kind = known.get(action)
    if kind is None:
        raise Invalid(f"unknown action {action!r}: use one of {', '.join(sorted(known))}")
    if unknown := set(args) - set(kind.__dataclass_fields__):
        raise Invalid(f"action {action} takes no argument {', '.join(sorted(unknown))}")
    try:
        typed = from_builtins(to_canonical_numbers(args), kind)
    except Undecodable as error:
        raise Invalid(f"action {action}: {error}") from error
    if place := first_infinite(typed):
        raise Invalid(f"args{place.replace('/', '.')}: NaN and infinities can not be executed as they are shown")
    normalized: JsonObject = to_canonical_numbers(to_builtins(typed))
    return normalized


def to_canonical_numbers(value: Any, path: str = "args") -> Any:
    """Return `value` with each number in the one form that every store and client writes back: whole ones as integers.

    Raises:
        Invalid: a number that is not finite, or a whole one beyond 64 bits.
    """
    if isinstance(value, Mapping):
        return {name: to_canonical_numbers(item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_canonical_numbers(item, f"{path}[{n}]") for n, item in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise Invalid(f"{path}: {value} is not a number that can be executed as it is shown")
    whole = int(value)
    if whole != value:
        return value
    if not _MIN_INTEGER <= whole <= _MAX_INTEGER:
        raise Invalid(f"{path}: {value} is beyond 64 bits, and would not be shown as it is: send it as text")
    return whole
