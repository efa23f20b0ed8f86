"""MCP over Streamable HTTP: one endpoint, and where its clients get their tokens."""

import json
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from flotilla.contracts.errors import Invalid, NotFound
from gateway.auth.principal import EVERYONE
from gateway.guard import PUBLIC, allow, guarded_router
from gateway.mcp.door import Door
from gateway.mcp.exchange import Exchange, McpEndpoint, check_addresses
from gateway.mcp.server import cancel_request
from gateway.names import EVENT_STREAM_MEDIA_TYPE
from gateway.problems import Unauthenticated
from gateway.routes.documented import documented_errors
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("mcp")
PATH = "/mcp"
_CANCELLED = "notifications/cancelled"
_JSON_RPC_ERROR = {"application/json": {"schema": {"type": "object"}}}
METADATA = "/.well-known/oauth-protected-resource"


class McpMessage(BaseModel):
    """A JSON-RPC 2.0 message, as the Model Context Protocol describes them."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]}
    )

    method: Any = None
    params: dict[str, Any] = Field(default_factory=dict)


class ProtectedResource(BaseModel):
    """Metadata of a protected resource (RFC 9728)."""

    resource: str
    resource_name: str
    authorization_servers: list[str]
    bearer_methods_supported: list[str]


@router.post(
    PATH,
    responses={
        200: {"description": "Its answers, each a JSON-RPC message.", "content": {EVENT_STREAM_MEDIA_TYPE: {}}},
        202: {"description": "A notification was taken."},
        **documented_errors(413, 415, 421),
        400: {"description": "A message that the protocol does not have.", "content": _JSON_RPC_ERROR},
    },
)
@allow(EVERYONE, free_json=True, for_others=True, any_query=True)
async def exchange_message(services: Wired, caller: Caller, request: Request, body: McpMessage) -> Response:
    """Answer a message of an MCP client. Calls of tools take the role `operator`."""
    if "Authorization" not in request.headers:
        raise Unauthenticated("the console's sign-in is not for /mcp: send Authorization: Bearer …")
    check_addresses(request, public_url=services.public_url, hosts=services.mcp_hosts, origins=services.cors_origins)
    if body.method == _CANCELLED:  # not the SDK's: it ends its work on a notification with the request
        await cancel_request(Door(services, request, caller), body.params.get("requestId"))
        return Response(status_code=202)
    _check_is_text(body)
    endpoint: McpEndpoint = request.app.state.mcp
    return Exchange(endpoint.manager, await request.body(), body.method)


@router.get(f"{METADATA}{PATH}", response_model=ProtectedResource, responses=documented_errors(404))
@router.get(METADATA, response_model=ProtectedResource, responses=documented_errors(404))
@allow(PUBLIC, any_query=True)
async def get_protected_resource(services: Wired, request: Request) -> Response:
    """Name the authorization server whose tokens `/mcp` takes; 404 where the gateway takes API keys only."""
    if services.oidc_issuer is None:
        raise NotFound("no authorization server: /mcp takes API keys")
    document: dict[str, Any] = {
        "resource": f"{_base(services, request)}{PATH}",
        "resource_name": "Flotilla",
        "authorization_servers": [services.oidc_issuer],
        "bearer_methods_supported": ["header"],
    }
    return JSONResponse(document)


def _check_is_text(message: McpMessage) -> None:
    """Refuse what neither a path or query of the API nor the answer could repeat.

    Raises:
        Invalid: the message holds a lone surrogate.
    """
    try:
        json.dumps(dict(message), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Invalid("the message holds a lone surrogate (\\ud800 to \\udfff), which is no character") from error


def _base(services: GatewayServices, request: Request) -> str:
    return (services.public_url or str(request.base_url)).rstrip("/")


def challenge(services: GatewayServices, request: Request) -> dict[str, str]:
    """Return the header that leads a client without credentials to the metadata; none where there is none."""
    if services.oidc_issuer is None:
        return {}
    url = f"{_base(services, request)}{METADATA}{PATH}"
    return {"WWW-Authenticate": f'Bearer realm="flotilla", resource_metadata="{url}"'}
