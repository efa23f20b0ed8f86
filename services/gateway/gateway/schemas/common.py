"""Pieces of bodies that routes share. Unknown fields are refused, and nothing is taken that a store can't hold."""

from typing import Annotated, Any, TypeAlias

from fastapi import Header, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from flotilla.contracts.approvals import MAX_ARGS_BYTES
from flotilla.contracts.envelope import to_json
from flotilla.contracts.values import to_storable_text, why_not_storable

MAX_SEQ = 2**63 - 1
MAX_WAIT_S = 60.0
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
"""The same as `flotilla.contracts.names.is_valid_id`; a test compares them."""


def _storable(text: str) -> str:
    if to_storable_text(text) != text:
        raise ValueError("a NUL character or a lone surrogate can't be stored")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank")
    return text


def _storable_json(value: Any) -> Any:
    if reason := why_not_storable(value):
        raise ValueError(f"{reason}, which can't be stored")
    return value


def limit_json_size(max_bytes: int) -> AfterValidator:
    """Refuses what has more than `max_bytes` as JSON."""

    def fits(value: Any) -> Any:
        size = len(to_json(value))
        if size > max_bytes:
            allowed = f"{max_bytes} are allowed: store the content and send a reference"
            raise ValueError(f"as JSON it has {size} bytes, {allowed}")
        return value

    return AfterValidator(fits)


STORABLE = AfterValidator(_storable)
"""Limits of length come before it, in one `StringConstraints`: after it they would count "items"."""
Text: TypeAlias = Annotated[str, STORABLE]
WRITTEN = AfterValidator(lambda text: _not_blank(_storable(text)))
"""Not blank."""
Reason: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=2000), WRITTEN]
Id: TypeAlias = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200), WRITTEN]
JsonBody: TypeAlias = Annotated[dict[str, Any], AfterValidator(_storable_json)]
ActionArgs: TypeAlias = Annotated[JsonBody, limit_json_size(MAX_ARGS_BYTES)]
"""Arguments that people decide about."""
WaitS: TypeAlias = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, description="Wait so many seconds for its end; it goes on either way."),
]
SessionId: TypeAlias = Annotated[str, Path(pattern=ID_PATTERN, description="The session's id.")]
RunId: TypeAlias = Annotated[str, Path(pattern=ID_PATTERN, description="The run's id.")]
ResourceId: TypeAlias = Annotated[str, Path(pattern=ID_PATTERN, description="Its id.")]
LastEventId: TypeAlias = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=64, description="Go on after this event.")
]


class RequestBody(BaseModel):
    """What clients send."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Answer(BaseModel):
    """What clients get."""

    model_config = ConfigDict(
        from_attributes=True, json_schema_serialization_defaults_required=True, use_attribute_docstrings=True
    )


class FieldError(BaseModel):
    """What is wrong with one part of a request."""

    pointer: str = Field(examples=["#/query"])
    """A JSON pointer into the body, or `query NAME`, `path NAME`, `header NAME`."""
    detail: str


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["urn:flotilla:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no run 0197f1a2-…: it does not exist or is not yours"])
    code: str = Field(examples=["not_found"])
    """Stable, for programs."""
    errors: list[FieldError] | None = None
    limit: str | None = None
    """With 429: the setting of the limit that is reached."""
    trace_id: str | None = None
