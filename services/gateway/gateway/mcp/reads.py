"""What may be read: operations of the API as tools, called as the API calls them, guard and limits included.

Nobody decides about an approval here: a vote stays with a person.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from fastapi.openapi.utils import get_openapi
from mcp_types import Tool, ToolAnnotations
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import Message

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import Invalid
from gateway.auth.on_behalf import HEADER as ON_BEHALF_OF
from gateway.guard import GuardedRoute
from gateway.mcp.results import MAX_RESULT_BYTES, Json, failure, text_result

_OPERATIONS = {
    "search_knowledge_base": "/v1/documents/search",
    "list_sessions": "/v1/sessions",
    "get_session": "/v1/sessions/{session_id}",
    "get_session_events": "/v1/sessions/{session_id}/events",
    "list_runs": "/v1/runs",
    "get_run": "/v1/runs/{run_id}",
    "list_tasks": "/v1/tasks",
    "get_task": "/v1/tasks/{task_id}",
    "list_approvals": "/v1/approvals",
    "get_approval": "/v1/approvals/{approval_id}",
}
"""Tools, and the paths that they read."""
_PASSED_ON = ("Authorization", ON_BEHALF_OF)


@dataclass(frozen=True, slots=True)
class Read:
    """An operation that changes nothing."""

    name: str
    path: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schemas by name."""
    required: tuple[str, ...]
    in_path: frozenset[str]

    def tool(self) -> Tool:
        """Return it as the protocol lists tools."""
        schema = {
            "type": "object",
            "properties": dict(self.parameters),
            "required": list(self.required),
            "additionalProperties": False,
        }
        annotations = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
        return Tool(name=self.name, description=self.description, input_schema=schema, annotations=annotations)

    async def call(self, request: Request, arguments: Json) -> Json:
        """Return the `CallToolResult` of what the API answers to the caller of `request`.

        Raises:
            Invalid: an argument that it does not take, or none where it takes one.
        """
        unknown = set(arguments) - set(self.parameters)
        if unknown:
            raise Invalid(f"{self.name} takes no {min(unknown)}")
        for name in sorted(self.in_path):
            if not isinstance(arguments.get(name), str) or not arguments[name]:
                raise Invalid(f"{self.name} takes {name}, a text")
        path = self.path.format_map({name: quote(str(arguments[name]), safe=":") for name in self.in_path})
        query = {name: _text(value) for name, value in arguments.items() if name not in self.in_path}
        status, body = await read_operation(
            request, path, {name: text for name, text in query.items() if text is not None}
        )
        if len(body) > MAX_RESULT_BYTES:
            return failure(f"the answer has {len(body)} bytes, and {MAX_RESULT_BYTES} can be sent here: ask for less")
        answer = from_json(body, dict)
        if status != HTTPStatus.OK:
            return failure(str(answer.get("detail") or HTTPStatus(status).phrase), answer)
        return text_result(body.decode(), answer)


def reads(routes: Iterable[BaseRoute]) -> dict[str, Read]:
    """Return the operations that are tools, by the tools' names; `routes` are the API's."""
    by_path = {
        route.path: route for route in routes if isinstance(route, GuardedRoute) and "GET" in (route.methods or ())
    }
    document = get_openapi(title="", version="", routes=[by_path[path] for path in _OPERATIONS.values()])
    return {tool: _read(tool, path, document["paths"][path]["get"]) for tool, path in _OPERATIONS.items()}


def _read(name: str, path: str, operation: Mapping[str, Any]) -> Read:
    shown = [one for one in operation.get("parameters", ()) if one["in"] in ("path", "query")]
    return Read(
        name=name,
        path=path,
        description=operation["description"],
        parameters={one["name"]: _described(one) for one in shown},
        required=tuple(one["name"] for one in shown if one.get("required")),
        in_path=frozenset(one["name"] for one in shown if one["in"] == "path"),
    )


def _described(parameter: Mapping[str, Any]) -> Json:
    description = parameter.get("description")
    schema = {name: value for name, value in parameter["schema"].items() if name != "title"}
    return {**schema, "description": description} if description else schema


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise Invalid("an argument is a text, a number, true or false")


async def read_operation(request: Request, path: str, query: Mapping[str, str]) -> tuple[int, bytes]:
    """Ask the API, in this process, with the credentials of `request`; return its status and body."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in _credentials(request)]
    scope = {
        "type": "http",
        "asgi": request.scope["asgi"],
        "http_version": "1.1",
        "method": "GET",
        "scheme": request.scope["scheme"],
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": urlencode(query).encode(),
        "headers": [(b"host", request.headers.get("Host", "").encode("latin-1")), *headers],
        "client": request.scope.get("client"),
        "server": request.scope.get("server"),
        "state": {},
    }
    answer = _Answer()
    await request.app(scope, _no_body, answer.send)
    return answer.status, b"".join(answer.body)


def _credentials(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name in _PASSED_ON for value in request.headers.getlist(name)]


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class _Answer:
    def __init__(self) -> None:
        self.status = int(HTTPStatus.INTERNAL_SERVER_ERROR)
        self.body: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.body.append(message.get("body", b""))
