"""Checks against schemas take bounded time, off the event loop."""

import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError

from flotilla.contracts.errors import Invalid
from flotilla.runtime.confined import CallLimits, ConfinedProcesses
from flotilla.runtime.json_schemas import SCHEMA_CHECKS
from gateway.json_schemas import check_fits_schema
from gateway.openai.formats import check_schemas, format_violation

NODE = {"$ref": "#/$defs/node"}
SCHEMA = json.dumps(
    {
        "$defs": {
            "node": {
                "anyOf": [
                    {"type": "object", "properties": {"next": NODE}, "required": ["a"]},
                    {"type": "object", "properties": {"next": NODE}, "required": ["b"]},
                ]
            }
        },
        "type": "object",
        "properties": {"root": NODE},
    }
)
"""Of an object that is nested n times, each branch looks at all that is below: 2 to the power of n."""


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {}
    for _ in range(depth):
        node = {"next": node}
    return {"root": node}


async def test_a_schema_whose_checks_double_with_each_level_is_ended() -> None:
    limits = CallLimits(cpu_s=1.0, wall_s=60.0, memory_bytes=128 * 1024**2)
    async with ConfinedProcesses.open(SCHEMA_CHECKS, children=1, limits=limits) as confined:
        with pytest.raises(RequestValidationError) as refused:
            await check_fits_schema(confined.run, SCHEMA, nested(2), "input", "workflow_input")
        assert [error["loc"] for error in refused.value.errors()] == [("body", "input", "root")]
        with pytest.raises(Invalid, match="input: it can't be checked against the schema"):
            await check_fits_schema(confined.run, SCHEMA, nested(60), "input", "workflow_input")
        await check_fits_schema(
            confined.run, SCHEMA, {"root": {"a": 12345678901234567890123}}, "input", "workflow_input"
        )


async def test_a_schema_that_refers_elsewhere_is_named() -> None:
    async with ConfinedProcesses.open(SCHEMA_CHECKS, children=1) as confined:
        with pytest.raises(Invalid, match="the schema that the workflow's author wrote can't be used"):
            await check_fits_schema(confined.run, '{"$ref": "https://example.com/node"}', {}, "input", "workflow_input")


async def test_schemas_that_callers_send_are_not_kept() -> None:
    limits = CallLimits(memory_bytes=128 * 1024**2)
    async with ConfinedProcesses.open(SCHEMA_CHECKS, children=1, limits=limits) as confined:
        for number in range(40):
            schema = {"type": "string", "pattern": f"(?:x{{1,300}}y{number}){{1,100}}"}
            await check_schemas(confined.run, {"the format": schema})
            assert await format_violation(confined.run, {"schema": schema}, f'"xy{number}"') is None
