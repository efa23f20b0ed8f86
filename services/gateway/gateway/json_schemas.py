"""Checks of JSON that callers send against a schema that a workflow's author wrote."""

from functools import lru_cache

from fastapi.exceptions import RequestValidationError
from jsonschema_rs import Draft202012Validator, RegexOptions

from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject

_MOST_ERRORS = 20
_LONGEST_MESSAGE = 300


def check_fits(schema: str, data: JsonObject, field: str, error_type: str) -> None:
    """Check that `data`, the body's `field`, fits the JSON schema.

    Raises:
        RequestValidationError: it does not; with the places in the body, at most 20.
        Invalid: the schema is not valid, or has a pattern that can't be matched in linear time.
    """
    errors = []
    for error in _validator(schema).iter_errors(data):
        message = error.message[:_LONGEST_MESSAGE]
        errors.append({"type": error_type, "loc": ("body", field, *error.instance_path), "msg": message})
        if len(errors) == _MOST_ERRORS:
            break
    if errors:
        raise RequestValidationError(errors)


@lru_cache(maxsize=256)
def _validator(schema: str) -> Draft202012Validator:
    # What callers send never meets a pattern that can go back; references to elsewhere are not followed.
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), offline=True)
    except ValueError as error:
        raise Invalid(
            f"the schema that the workflow's author wrote can't be used: {str(error).splitlines()[0]}"
        ) from error
