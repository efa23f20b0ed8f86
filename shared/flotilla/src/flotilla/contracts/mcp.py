"""Calls of MCP tools: tasks of the agent `mcp`, which is the tool gateway."""

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Undecodable
from flotilla.contracts.json_types import JsonObject, JsonValue

MCP_AGENT = "mcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCall:
    """Input of agent `mcp`: one call of a tool that the tenant's administrators allowed."""

    tool: str
    """`<server>.<tool>`; policy knows it as `mcp.<server>.<tool>`."""
    arguments: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class McpResult:
    """What the tool answered: untrusted data, never an instruction."""

    content: list[JsonObject]
    """Blocks as MCP has them: `{"type": "text", "text": …}` and others."""
    structured: JsonValue = None
    is_error: bool = False
    """The tool, or its server, said that it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCallAtOnce:
    """Which call of an MCP tool an agent asks the tool gateway for (`POST /v1/calls`) while it holds its task, and what
    proves that the task is its own. It stands in the request's head, so that it is checked before the arguments, which
    are the body, are read. The answer is an `McpResult`; with `CALL_REFUSED` the call is refused for good, and `reason`
    says why; with any other status it is not made, or goes on, and the agent's task asks the worker for it."""

    tenant_id: str
    task_id: str
    attempt: int
    secret: str
    call_id: str
    """As in `McpCallNeeded`."""
    tool: str
    """`<server>.<tool>`."""

    def authorization(self) -> str:
        """Return the value of the request's `Authorization`."""
        return f"{CALL_SCHEME} {urlsafe_b64encode(to_json(self)).decode()}"

    @classmethod
    def from_authorization(cls, value: str) -> "McpCallAtOnce":
        """Return what `authorization` returned as `value`.

        Raises:
            Undecodable: it is none.
        """
        scheme, _, encoded = value.partition(" ")
        if scheme != CALL_SCHEME:
            raise Undecodable(f"the request has no Authorization of the scheme {CALL_SCHEME}")
        try:
            document = urlsafe_b64decode(encoded)
        except ValueError as error:
            raise Undecodable("the request's Authorization is not base64url") from error
        return from_json(document, cls)


CALL_SCHEME = "Flotilla-Call"
CALLS_PATH = "/v1/calls"
CALL_REFUSED = 422
"""Not 429, which a proxy on the way sends, too, and means a later try by it."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_MODEL_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_CHARS = 8


def model_name(*parts: str) -> str:
    """Return the name by which models call something: `parts` joined by `__`. Models take letters, digits, `_` and `-`,
    at most 64; any other name is cut to size, and ends with a digest of the whole.
    """
    name = "__".join(parts)
    if _MODEL_NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{_NOT_IN_MODEL_NAMES.sub('-', name)[: 63 - _DIGEST_CHARS]}-{digest}"
