"""Plain JSON data in, the author's types out, and back; and the JSON schema that is published at registration."""

import dataclasses
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.json_types import JsonObject

T = TypeVar("T")


class Codec(Generic[T]):
    """Converts one type: a dataclass, a msgspec struct, a pydantic model, a typed dict or a plain mapping."""

    def __init__(self, kind: type[T], where: str) -> None:
        self.kind = kind
        self._where = where
        self._is_model = _is_subclass(kind, BaseModel)

    def decode(self, data: JsonObject) -> T:
        """`data` as the author's type; fields that it does not have are ignored.

        Raises:
            ValueError: a field is missing or of the wrong type.
        """
        try:
            if self._is_model:
                return TypeAdapter(self.kind).validate_python(data)
            return msgspec.convert(data, self.kind)
        except (msgspec.ValidationError, ValidationError) as error:
            raise ValueError(f"{self._where} does not fit {self.kind.__name__}: {error}") from error

    def encode(self, value: T) -> dict[str, Any]:
        """The author's value as plain data.

        Raises:
            TypeError: it is not a JSON object.
        """
        if isinstance(value, BaseModel):
            plain = value.model_dump(mode="json")
        else:
            plain = msgspec.to_builtins(_with_defaults(value))
        if not isinstance(plain, dict):
            raise TypeError(f"{self._where} is a {type(value).__name__}, not an object with fields")
        return plain

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the type.

        Raises:
            ConfigurationError: the type can't travel as JSON.
        """
        try:
            if _is_subclass(self.kind, msgspec.Struct):
                return msgspec.json.schema(self.kind)
            return TypeAdapter(self.kind).json_schema()
        except (PydanticSchemaGenerationError, TypeError) as error:
            raise ConfigurationError(f"{self._where}: {self.kind!r} has no JSON schema: {error}") from error


def _with_defaults(value: object) -> object:
    """`value` with the fields that msgspec left to their defaults when it decoded it: it would leave them out again."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def _is_subclass(kind: object, parent: type) -> bool:
    # A subscripted generic, such as dict[str, int], is not a class.
    return isinstance(kind, type) and issubclass(kind, parent)


def is_object_type(kind: object) -> bool:
    """Whether values of `kind` are JSON objects."""
    if not isinstance(kind, type):
        return getattr(kind, "__origin__", None) is dict
    return dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct | BaseModel | dict)
