"""One MCP tool as an agent's tool: checked against its schema, called once, its answer cut to size."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult
from pydantic import ValidationError

from flotilla.actions.arguments import to_canonical_numbers
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.mcp import MCP_AGENT
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.tools import ToolOptions
from flotilla.runtime.confined import FunctionRunner
from flotilla.telemetry import metrics
from tool_gateway import schemas
from tool_gateway.connections import ServerConnection
from tool_gateway.offers import OfferedToolDefinition

_NO_ANSWER = (CONNECTION_CLOSED, REQUEST_TIMEOUT)
_MAX_MESSAGE_CHARS = 500


class GovernedMcpTool:
    """A tool of an MCP server, as its server offers it and its tenant allowed it."""

    def __init__(self, offer: OfferedToolDefinition, connection: ServerConnection, run: FunctionRunner) -> None:
        self._offer = offer
        self._connection = connection
        self._run = run
        self._checked: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """`<server>.<tool>`."""
        return self._offer.name

    @property
    def minimum_risk(self) -> RiskLevel:
        """The least risk of a call; policy can raise it."""
        return self._offer.risk

    @property
    def description(self) -> str:
        """The server's words, which an operator has read."""
        return str(self._offer.definition.get("description") or self.name)

    @property
    def options(self) -> ToolOptions:
        """A call without an answer is made again only where the operators say that this does no harm."""
        is_idempotent = self._offer.tool in self._connection.server.idempotent
        return ToolOptions(on_unknown="again" if is_idempotent else "ask")

    def validated_arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Return `given` in the one form that is shown, hashed and sent."""
        arguments: dict[str, Any] = to_canonical_numbers(dict(given))
        return arguments

    async def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Hold `arguments` against the tool's schema.

        Raises:
            Invalid: the schema does not allow them.
        """
        if arguments == self._checked:
            return
        try:
            await schemas.check_arguments(self._run, self._offer.definition["input_schema"], arguments)
        except Invalid as error:
            raise Invalid(f"tool {self.name}: {error}") from error
        self._checked = dict(arguments)

    def decode_result(self, value: Any) -> Any:
        """A stored result as it is."""
        return value

    async def __call__(self, ctx: object, arguments: Mapping[str, Any], key: str) -> JsonObject:
        """Call the tool and return the members of its `McpResult`. What the server answers is an answer, an error, too.

        Raises:
            Invalid: people changed the arguments to some that the schema does not allow; nothing was sent.
            ServerAway: nothing was sent.
            TimeoutError, MCPError, OSError: there was no answer, and the call may have had its effect.
        """
        await self.check_arguments(arguments)
        try:
            with _timed(self._offer.server):
                answer = await self._connection.call(self._offer.tool, dict(arguments), key)
        except MCPError as error:
            if error.code in _NO_ANSWER:
                raise
            return _error(self._connection.mask_credentials(error.message)[:_MAX_MESSAGE_CHARS])
        except ValidationError:
            return _error("the server's answer is not a tool's result; it may have asked for input, which is refused")
        return self._cut_to_size(answer)

    def _cut_to_size(self, answer: CallToolResult) -> JsonObject:
        blocks = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in answer.content]
        result: JsonObject = {"content": blocks, "structured": answer.structured_content, "is_error": answer.is_error}
        size, limit = len(json.dumps(result)), self._connection.server.max_result_bytes
        if size > limit:
            return _error(f"the result has {size} bytes, and {limit} are allowed (maxResultBytes)")
        masked: JsonObject = self._masked(result)
        return masked

    def _masked(self, value: Any) -> Any:
        """Return JSON data without the credentials: string by string, since a text of JSON writes them with escapes."""
        if isinstance(value, str):
            return self._connection.mask_credentials(value)
        if isinstance(value, dict):
            return {self._connection.mask_credentials(name): self._masked(member) for name, member in value.items()}
        return [self._masked(item) for item in value] if isinstance(value, list) else value


def needs_people(policy: ReloadingPolicyFile, tool: GovernedMcpTool, arguments: Mapping[str, Any]) -> bool:
    """Whether policy asks people about the call, which it knows as `mcp.<server>.<tool>`."""
    action, rules = f"{MCP_AGENT}.{tool.name}", policy.current_policy
    return rules.approval_requirement(action, rules.assess_risk(action, arguments, tool.minimum_risk)).required


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
