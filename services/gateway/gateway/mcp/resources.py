"""What a person may attach to a conversation: documents, sessions and runs, as resources of the protocol.

They are read by the API's operations, as the caller: what is not shared with them is not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    INVALID_PARAMS,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)
from starlette.requests import Request

from flotilla.contracts.envelope import from_json
from gateway.mcp.door import Door
from gateway.mcp.reads import read_operation
from gateway.mcp.results import MAX_RESULT_BYTES, Json

SCHEME = "flotilla://"
_PAGE = 100
Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceKind:
    """One kind of resource, `flotilla://NAME/ID`."""

    name: str
    id_member: str
    """Of the items of its list."""
    path: str
    """Of the operation that reads one; the id takes the place of `{}`."""
    description: str
    search: str = ""
    """The parameter of the list's operation that narrows it by what was typed so far."""

    @property
    def template(self) -> str:
        return f"{SCHEME}{self.name}/{{{self.id_member}}}"


RESOURCE_KINDS: Mapping[str, ResourceKind] = {
    one.name: one
    for one in (
        ResourceKind(
            name="documents", id_member="document_id", path="/v1/documents/{}", description="The text of a document."
        ),
        ResourceKind(
            name="sessions",
            id_member="session_id",
            path="/v1/sessions/{}/events",
            description="What happened in a session, as JSON: the first events.",
            search="q",
        ),
        ResourceKind(name="runs", id_member="run_id", path="/v1/runs/{}", description="A run and its result, as JSON."),
    )
}


def add_resources(server: Server[Any]) -> None:
    """Have `server` offer resources and their templates."""
    server.add_request_handler("resources/list", PaginatedRequestParams, _list_resources)
    server.add_request_handler("resources/templates/list", PaginatedRequestParams, _list_templates)
    server.add_request_handler("resources/read", ReadResourceRequestParams, _read_resource)


async def _list_resources(context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    """The documents: sessions and runs are too many, and have a template each."""
    cursor = params.cursor if params else None
    query = {"limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
    found = await read_answer(context, "/v1/documents", query)
    resources = [
        Resource(
            uri=f"{SCHEME}documents/{quote(one['document_id'], safe=':')}",
            name=one["uri"],
            title=one["title"] or None,
            mime_type=_mime_type(one),
        )
        for one in found["documents"]
    ]
    return ListResourcesResult(resources=resources, next_cursor=found["next_cursor"])


async def _list_templates(_context: Context, _params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    templates = [
        ResourceTemplate(uri_template=one.template, name=one.name, description=one.description)
        for one in RESOURCE_KINDS.values()
    ]
    return ListResourceTemplatesResult(resource_templates=templates)


async def _read_resource(context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    return ReadResourceResult(contents=[await read_resource_text(Door.of(context).request, str(params.uri))])


async def read_resource_text(request: Request, uri: str) -> TextResourceContents:
    """Read a resource as the caller of `request`.

    Raises:
        MCPError: it is not there, not shared with the caller, or too large to be sent here.
    """
    name, _, written = uri.removeprefix(SCHEME).partition("/")
    kind = RESOURCE_KINDS.get(name) if uri.startswith(SCHEME) else None
    if kind is None or not written:
        raise not_found(uri)
    status, body = await read_operation(request, kind.path.format(quote(unquote(written), safe=":")), {})
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY):
        raise not_found(uri)
    answer = _document(status, body)
    is_document = kind.name == "documents"
    text = answer["text"] if is_document else body.decode()
    mime_type = _mime_type(answer) if is_document else "application/json"
    return TextResourceContents(uri=uri, mime_type=mime_type, text=text)


async def read_answer(context: Context, path: str, query: Mapping[str, str]) -> Json:
    """Return what an operation of the API answers to the caller.

    Raises:
        MCPError: it refused, or its answer is too large to be sent here.
    """
    return _document(*await read_operation(Door.of(context).request, path, query))


def _document(status: int, body: bytes) -> Json:
    """Return what an operation answered.

    Raises:
        MCPError: it refused, or its answer is too large to be sent here.
    """
    if len(body) > MAX_RESULT_BYTES:
        raise MCPError(INVALID_PARAMS, f"it has {len(body)} bytes, and {MAX_RESULT_BYTES} can be sent here")
    answer = from_json(body, dict)
    if status != HTTPStatus.OK:
        raise MCPError(INVALID_PARAMS, str(answer.get("detail") or HTTPStatus(status).phrase))
    return answer


def not_found(uri: str) -> MCPError:
    """Return the error of a resource that is not there, or not shared with the caller (SEP-2164)."""
    return MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})


def _mime_type(document: Json) -> str:
    """The type of the text that is read, which of a PDF is not the file's."""
    media_type = str(document["media_type"])
    return media_type if media_type.startswith("text/") else "text/plain"
