"""What makes two requests the same: the model, and every field that differs from its default; of a request with a body
the body alone, in whatever order its members come.

A field that a later version adds changes no hash as long as it keeps its default, so stored answers stay usable.
"""

import hashlib
import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from flotilla.llm.model import CompletionRequest


def hash_completion_request(model: str, request: CompletionRequest) -> bytes:
    """SHA-256 over the model's name and everything that decides the answer."""
    asked = _canonical(request)
    asked = {"body": asked["body"]} if "body" in asked else asked
    document = json.dumps([model, asked], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).digest()


def _canonical(value: Any) -> Any:
    if is_dataclass(value):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        defaults = {field.name: _default(field) for field in fields(value)}
        return {name: _canonical(member) for name, member in given.items() if member != defaults[name]}
    if isinstance(value, dict):
        return {str(name): _canonical(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(member) for member in value]
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    return value


def _default(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
