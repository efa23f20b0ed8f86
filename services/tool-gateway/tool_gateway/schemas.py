"""Arguments held against a tool's schema, in a process that can be killed: a schema can be made to take years."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any

from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, ValidationError

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonValue
from flotilla.runtime.confined import Confined, Limits, Runner

_MAX_MESSAGE_CHARS = 500
_LIMITS = Limits(cpu_s=2.0, wall_s=20.0, memory_bytes=64 * 1024**2)


def checkers() -> AbstractAsyncContextManager[Confined]:
    """Open the processes for `check`."""
    return Confined.open(__name__, children=2, limits=_LIMITS)


async def check(run: Runner, schema: JsonValue, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that `schema` does not allow.

    Raises:
        Invalid: with the reason.
        RetryLater: all processes are busy.
    """
    await run(_check, to_json(schema).decode(), to_json(arguments).decode())


def _check(schema: str, arguments: str) -> None:
    error = next(iter(_validator(schema).iter_errors(from_json(arguments, object))), None)
    if error is not None:
        place = ".".join(str(step) for step in ("arguments", *error.instance_path))
        raise Invalid(f"{place}: {error.message[:_MAX_MESSAGE_CHARS]}")


@lru_cache(maxsize=64)
def _validator(schema: str) -> Draft202012Validator:
    # No pattern in it can go back, and references to elsewhere are not followed.
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), offline=True)
    except (ValidationError, ReferencingError, ValueError) as error:
        raise Invalid(f"the tool's schema can't be used: {str(error)[:_MAX_MESSAGE_CHARS]}") from error
