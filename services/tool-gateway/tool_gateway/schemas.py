"""Arguments held against a tool's schema, in a process that can be killed: a schema can be made to take years."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonValue
from flotilla.runtime.confined import CallLimits, ConfinedProcesses, FunctionRunner, OverLimit
from flotilla.runtime.json_schemas import SCHEMA_CHECKS, misfits

_LIMITS = CallLimits(cpu_s=2.0, wall_s=20.0, memory_bytes=64 * 1024**2)


def open_schema_checkers() -> AbstractAsyncContextManager[ConfinedProcesses]:
    """Open the processes for `check_arguments`."""
    return ConfinedProcesses.open(SCHEMA_CHECKS, children=2, limits=_LIMITS)


async def check_arguments(run: FunctionRunner, schema: JsonValue, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that `schema` does not allow.

    Raises:
        Invalid: with the reason.
        RetryLater: all processes are busy.
    """
    try:
        found = await run(misfits, to_json(schema).decode(), to_json(arguments).decode(), 1)
    except OverLimit:
        raise
    except Invalid as error:
        raise Invalid(f"the tool's schema can't be used: {error}") from error
    for place, message in found:
        raise Invalid(f"{'.'.join(map(str, ('arguments', *place)))}: {message}")
