"""Checks of JSON that callers send against a schema that a workflow's author wrote."""

from fastapi.exceptions import RequestValidationError

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject
from flotilla.runtime.confined import FunctionRunner, OverLimit
from flotilla.runtime.json_schemas import misfits

_MOST_ERRORS = 20


async def check_fits_schema(run: FunctionRunner, schema: str, data: JsonObject, field: str, error_type: str) -> None:
    """Check that `data`, the body's `field`, fits the JSON schema.

    A schema that refers to itself takes time that grows exponentially with the depth of `data`: the check runs in a
    process that is ended in time.

    Raises:
        RequestValidationError: it does not; with the places in the body, at most 20.
        Invalid: the schema is not valid, has a pattern that can't be matched in linear time, or the check takes too
            long.
        RetryLater: too many checks run already.
    """
    try:
        problems = await run(misfits, schema, to_json(data).decode(), _MOST_ERRORS)
    except OverLimit as error:
        raise Invalid(f"{field}: it can't be checked against the schema: it {error}") from error
    except Invalid as error:
        raise Invalid(f"the schema that the workflow's author wrote can't be used: {error}") from error
    if problems:
        raise RequestValidationError(
            [{"type": error_type, "loc": ("body", field, *place), "msg": message} for place, message in problems]
        )
