"""The shape of JSON, for type checkers; at run time msgspec and pydantic see plain `Any` inside."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

JsonScalar: TypeAlias = str | int | float | bool | None

if TYPE_CHECKING:
    JsonValue: TypeAlias = JsonScalar | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
else:
    JsonValue: TypeAlias = Any

JsonObject: TypeAlias = Mapping[str, JsonValue]
