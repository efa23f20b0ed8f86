"""One request of an MCP client: who asks, and what the client can do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp_types import ClientCapabilities
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request

from gateway.auth.principal import Principal
from gateway.mcp.reads import Read
from gateway.services import GatewayServices

SESSION_HEADER = "Mcp-Session-Id"
TASKS = "io.modelcontextprotocol/tasks"
"""The extension by which a call is a task of the protocol."""
_MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Door:
    """The request, and its caller, whom the guard has let in."""

    services: GatewayServices
    request: Request
    caller: Principal
    takes_tasks: bool = False
    """Whether the client said that it knows the tasks extension."""
    is_modern: bool = False
    """Whether the protocol is one without sessions, in which a client cancels a request by closing its answer."""
    takes_forms: bool = False
    """Whether the client shows its user forms that a result asks for."""

    @classmethod
    def of(cls, context: ServerRequestContext[Any, Any]) -> "Door":
        """Return the door of the request that `context` is about."""
        request = context.request
        if not isinstance(request, Request):
            raise TypeError("the context is not that of an HTTP request")
        capabilities = context.session.client_capabilities
        is_modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
        takes_tasks = is_modern and capabilities is not None and TASKS in (capabilities.extensions or {})
        return cls(
            request.app.state.services,
            request,
            request.state.principal,
            takes_tasks,
            is_modern,
            is_modern and takes_forms(capabilities),
        )

    def reads(self) -> Mapping[str, Read]:
        """Return what may be read, by the tools' names."""
        read_operations: Callable[[], Mapping[str, Read]] = self.request.app.state.mcp.read_operations
        return read_operations()

    @property
    def base_url(self) -> str:
        """Where people find the gateway."""
        return (self.services.public_url or str(self.request.base_url)).rstrip("/")

    def request_name(self, request_id: object) -> str | None:
        """Return what names a request of the client's session; None where the client has none."""
        session = self.request.headers.get(SESSION_HEADER)
        if self.is_modern or session is None:
            return None
        # In ASCII: PostgreSQL stores neither NUL nor half a surrogate pair.
        return f"{session[:_MAX_NAME_CHARS]} {ascii(str(request_id))[:_MAX_NAME_CHARS]}"


def takes_forms(capabilities: ClientCapabilities | None) -> bool:
    """Whether a client of these capabilities shows forms: they are what an elicitation is where it names no mode."""
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)
