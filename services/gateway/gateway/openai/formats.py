"""Structured output: the answer of a workflow or an agent as JSON, checked against the schema that the client sent.

Neither is trusted, and a schema can be made to take years, so they are checked in a process that can be killed.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Invalid
from flotilla.runtime import json_schemas
from flotilla.runtime.confined import FunctionRunner, OverLimit
from gateway.schemas.common import STORABLE, JsonBody

_LONGEST_REASON = 1000


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    name: Annotated[str, StringConstraints(max_length=64), STORABLE] = "answer"
    schema_: Annotated[JsonBody | None, Field(alias="schema")] = None
    """`schema`, which pydantic has a use of its own for."""
    strict: bool | None = None


class Format(_Named):
    """What an answer is to look like: as `text.format` of a response has it, or `response_format` of a completion."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: _Named | None = None

    @property
    def parameters(self) -> dict[str, Any] | None:
        """The format as responses show it; None for plain text.

        Raises:
            Invalid: it has no schema.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": self.type}
        named = self.json_schema or self
        if named.schema_ is None:
            raise Invalid("the format json_schema needs its schema")
        return {"type": self.type, "name": named.name, "schema": named.schema_, "strict": bool(named.strict)}


class TextOptions(BaseModel):
    """`text` of a response."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: Format = Format()


async def check_format_schema(run: FunctionRunner, wanted: Mapping[str, Any]) -> None:
    """Refuse a format whose schema is invalid.

    Raises:
        Invalid: with the reason.
    """
    if "schema" in wanted:
        await check_schemas(run, {"the format": wanted["schema"]})


async def check_schemas(run: FunctionRunner, schemas: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse schemas that are invalid, by whose they are.

    Raises:
        Invalid: with the reason.
    """
    try:
        await run(json_schemas.check_schemas, {name: to_json(schema).decode() for name, schema in schemas.items()})
    except OverLimit as error:
        raise OverLimit(f"the schema of {' or '.join(schemas)} {error}"[:_LONGEST_REASON]) from error


async def format_violation(run: FunctionRunner, wanted: Mapping[str, Any], text: str) -> str | None:
    """Return why an answer is not what was wanted; None where it is."""
    try:
        schema = to_json(wanted.get("schema", True)).decode()
        found = await run(json_schemas.misfits_of_callers_schema, schema, text, 1)
    except OverLimit as error:
        return f"it can't be checked against the schema: it {error}"
    return next((f"#/{'/'.join(map(str, place))}: {message}" for place, message in found), None)
