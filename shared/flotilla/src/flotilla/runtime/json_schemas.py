"""Checks of JSON against a schema that somebody else wrote.

A check can take time that is exponential in the depth of schema and data: run it in `flotilla.runtime.confined`.
"""

from collections.abc import Sequence
from itertools import islice
from typing import TypeAlias

from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, ValidationError

from flotilla.contracts.errors import Invalid

_LONGEST_MESSAGE = 300

Misfit: TypeAlias = tuple[Sequence[str | int], str]
"""Where data does not fit, as the steps from its root, and why."""


def compile_schema(schema: str) -> Draft202012Validator:
    """Return what checks data against `schema`, which is JSON text.

    Patterns are matched in linear time, and references to elsewhere are not followed.

    Raises:
        Invalid: the schema is not valid, or refers to elsewhere; in one line.
    """
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), offline=True)
    except (ValidationError, ReferencingError, ValueError) as error:
        raise Invalid(str(error).partition("\n")[0][:_LONGEST_MESSAGE]) from error


def schema_violations(validator: Draft202012Validator, data: object, at_most: int = 1) -> list[Misfit]:
    """Return the first places where `data` does not fit."""
    found = islice(validator.iter_errors(data), at_most)
    return [(list(error.instance_path), error.message[:_LONGEST_MESSAGE]) for error in found]
