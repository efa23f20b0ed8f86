"""Arguments held against a tool's schema, in a process that can be killed: a schema can be made to take years."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonValue
from flotilla.runtime.confined import CallLimits, ConfinedProcesses, FunctionRunner
from flotilla.runtime.json_schemas import compile_schema, schema_violations

_compiled = lru_cache(maxsize=64)(compile_schema)
_LIMITS = CallLimits(cpu_s=2.0, wall_s=20.0, memory_bytes=64 * 1024**2)


def open_schema_checkers() -> AbstractAsyncContextManager[ConfinedProcesses]:
    """Open the processes for `check_arguments`."""
    return ConfinedProcesses.open(__name__, children=2, limits=_LIMITS)


async def check_arguments(run: FunctionRunner, schema: JsonValue, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that `schema` does not allow.

    Raises:
        Invalid: with the reason.
        RetryLater: all processes are busy.
    """
    await run(_check, to_json(schema).decode(), to_json(arguments).decode())


def _check(schema: str, arguments: str) -> None:
    try:
        validator = _compiled(schema)
    except Invalid as error:
        raise Invalid(f"the tool's schema can't be used: {error}") from error
    for place, message in schema_violations(validator, from_json(arguments, object)):
        raise Invalid(f"{'.'.join(map(str, ('arguments', *place)))}: {message}")
