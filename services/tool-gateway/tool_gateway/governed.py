"""One MCP tool as an agent's tool: checked against its schema, called once, its answer cut to size."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult
from pydantic import ValidationError

from flotilla.actions.arguments import canonical_numbers
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.tools import ToolOptions
from flotilla.telemetry import metrics
from tool_gateway.connections import Connection
from tool_gateway.offers import Offer

_NO_ANSWER = (CONNECTION_CLOSED, REQUEST_TIMEOUT)
_MAX_MESSAGE_CHARS = 500


class GovernedTool:
    """A tool of an MCP server, as its server offers it and its tenant allowed it."""

    def __init__(self, offer: Offer, connection: Connection) -> None:
        self._offer = offer
        self._connection = connection

    @property
    def name(self) -> str:
        """`<server>.<tool>`."""
        return self._offer.name

    @property
    def description(self) -> str:
        """The server's words, which an operator has read."""
        return str(self._offer.definition.get("description") or self.name)

    @property
    def options(self) -> ToolOptions:
        """A call without an answer is made again only where the operators say that this does no harm."""
        is_idempotent = self._offer.tool in self._connection.server.idempotent
        return ToolOptions(on_unknown="again" if is_idempotent else "ask")

    def arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Return `given` in the one form that is shown, hashed and sent.

        Raises:
            Invalid: the tool's schema does not allow it.
        """
        arguments: dict[str, Any] = canonical_numbers(dict(given))
        validator = _validator(json.dumps(self._offer.definition["input_schema"], sort_keys=True))
        for error in validator.iter_errors(arguments):
            place = ".".join(str(step) for step in ("arguments", *error.instance_path))
            raise Invalid(f"tool {self.name}: {place}: {error.message[:_MAX_MESSAGE_CHARS]}")
        return arguments

    def returned(self, value: Any) -> Any:
        """A stored result as it is."""
        return value

    async def __call__(self, ctx: object, arguments: Mapping[str, Any], key: str) -> JsonObject:
        """Call the tool and return the members of its `McpResult`. What the server answers is an answer, an error, too.

        Raises:
            ServerAway: nothing was sent.
            TimeoutError, MCPError, OSError: there was no answer, and nobody knows what the tool did.
        """
        try:
            with _timed(self._offer.server):
                answer = await self._connection.call(self._offer.tool, dict(arguments), key)
        except MCPError as error:
            if error.code in _NO_ANSWER:
                raise
            return _error(self._connection.masked(error.message[:_MAX_MESSAGE_CHARS]))
        except ValidationError:
            return _error("the server's answer is not a tool's result; it may have asked for input, which is refused")
        return self._cut_to_size(answer)

    def _cut_to_size(self, answer: CallToolResult) -> JsonObject:
        blocks = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in answer.content]
        result: JsonObject = {"content": blocks, "structured": answer.structured_content, "is_error": answer.is_error}
        text = json.dumps(result)
        limit = self._connection.server.max_result_bytes
        if len(text) > limit:
            return _error(f"the result has {len(text)} bytes, and {limit} are allowed (maxResultBytes)")
        masked: JsonObject = json.loads(self._connection.masked(text))
        return masked


@contextmanager
def _timed(server: str) -> Iterator[None]:
    started, outcome = time.monotonic(), "failed"
    try:
        yield
        outcome = "answered"
    finally:
        metrics.MCP_CALLS.labels(server, outcome).observe(time.monotonic() - started)


def _error(message: str) -> JsonObject:
    return {"content": [{"type": "text", "text": message}], "structured": None, "is_error": True}


@lru_cache(maxsize=512)
def _validator(schema: str) -> Draft202012Validator:
    # A stranger's schema: no pattern in it can go back, and references to elsewhere are not followed.
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), offline=True)
    except ValueError as error:
        raise Invalid(f"the tool's schema can't be used: {error}") from error
