"""The gateway's MCP server without credentials and without a fleet, with the tools and prompts of the suite.

`python -m tests.mcp_conformance.server PORT` serves until it is stopped. The suite can't send a key, and asks how
messages are answered.
"""

import asyncio
import hmac
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ElicitResult,
    GetPromptRequestParams,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
    Tool,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.mcp.door import takes_forms
from gateway.mcp.exchange import Exchange, check_addresses, serve_mcp_messages
from gateway.mcp.prompts import given_arguments, missing_arguments_result
from gateway.mcp.resources import not_found
from gateway.mcp.results import Json, content_blocks_result, failure, text_result
from gateway.mcp.server import make_server
from gateway.problems import problem_from_error

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
STATIC = "test://static-text"
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}
SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
Context = ServerRequestContext[Any, Any]


def _resource(uri: str, mime_type: str, text: str) -> Json:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


ANSWERS: dict[str, Json] = {
    "test_simple_text": text_result("This is a simple text response for testing."),
    "test_image_content": content_blocks_result([IMAGE]),
    "test_audio_content": content_blocks_result([{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]),
    "test_embedded_resource": content_blocks_result(
        [_resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
    ),
    "test_multiple_content_types": content_blocks_result(
        [
            _text("Multiple content types test:"),
            IMAGE,
            _resource("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}'),
        ]
    ),
    "test_error_handling": failure("This tool intentionally returns an error for testing"),
    "test_streaming_elicitation": text_result("The server asks nothing on the stream of an answer."),
    "test_logging_tool": text_result("The server logs nothing to clients."),
    "json_schema_2020_12_tool": text_result("{}"),
}


async def _progress(context: Context) -> Json:
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100)
        await asyncio.sleep(0.05)
    return text_result("done")


async def _missing(context: Context) -> Json:
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        needed: Json = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)
    return text_result("it is there")


ASKED: dict[str, list[tuple[str, str, str]]] = {
    "test_input_required_result_elicitation": [("user_name", "name", "string")],
    "test_input_required_result_request_state": [("confirm", "ok", "boolean")],
    "test_input_required_result_tampered_state": [("confirm", "ok", "boolean")],
    "test_input_required_result_multi_round": [("step1", "name", "string"), ("step2", "color", "string")],
}
"""Tools that ask the client's user, round by round: the request's key, the form's field and its type."""
STATE_KEY = b"of the tests"


def _state(done: int) -> str:
    return f"{done}.{hmac.digest(STATE_KEY, str(done).encode(), 'sha256').hex()}"


def _asking(params: CallToolRequestParams) -> Json:
    """The next round's request for input, or the end."""
    rounds = ASKED[params.name]
    states = [_state(done) for done in range(len(rounds))]
    if params.request_state is not None and params.request_state not in states:
        raise MCPError(INVALID_PARAMS, "requestState is none of this server's")
    done = states.index(params.request_state) if params.request_state else 0
    if isinstance((params.input_responses or {}).get(rounds[done][0]), ElicitResult):
        done += 1
    if done == len(rounds):
        return text_result("state-ok")
    key, field, kind = rounds[done]
    form = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    asked = {"method": "elicitation/create", "params": {"mode": "form", "message": field, "requestedSchema": form}}
    return {"resultType": "input_required", "inputRequests": {key: asked}, "requestState": states[done]}


TOOLS: dict[str, Callable[[Context], Awaitable[Json]]] = {
    "test_tool_with_progress": _progress,
    "test_missing_capability": _missing,
}


async def list_tools(_context: Context, _params: PaginatedRequestParams) -> ListToolsResult:
    """All of them."""
    schemas = {name: {"type": "object"} for name in (*ANSWERS, *ASKED, *TOOLS)} | {"json_schema_2020_12_tool": SCHEMA}
    return ListToolsResult(
        tools=[Tool(name=name, description=name, input_schema=schema) for name, schema in schemas.items()]
    )


async def list_resources(_context: Context, _params: PaginatedRequestParams) -> ListResourcesResult:
    """The one that the suite reads."""
    return ListResourcesResult(resources=[Resource(uri=STATIC, name="static", mime_type="text/plain")])


async def list_templates(_context: Context, _params: PaginatedRequestParams) -> ListResourceTemplatesResult:
    """The one that the suite fills in."""
    return ListResourceTemplatesResult(
        resource_templates=[ResourceTemplate(uri_template="test://template/{id}/data", name="template")]
    )


async def read_resource(_context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    """What the suite expects; the gateway's own answer where there is nothing."""
    uri = str(params.uri)
    found = re.fullmatch(r"test://template/([^/]+)/data", uri)
    if uri != STATIC and found is None:
        raise not_found(uri)
    text = "This is the content of the static text resource."
    if found:
        text = json.dumps({"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"})
    mime_type = "application/json" if found else "text/plain"
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=mime_type, text=text)])


PROMPTS: dict[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": ("context",),
}
"""The arguments of each."""


async def list_prompts(_context: Context, _params: PaginatedRequestParams) -> ListPromptsResult:
    """All of them."""
    return ListPromptsResult(
        prompts=[
            Prompt(
                name=name, description=name, arguments=[PromptArgument(name=one, required=True) for one in arguments]
            )
            for name, arguments in PROMPTS.items()
        ]
    )


async def get_prompt(context: Context, params: GetPromptRequestParams) -> Json:
    """The messages that the suite expects; what is missing is asked for as the gateway does."""
    given = given_arguments(params)
    described = dict.fromkeys(PROMPTS.get(params.name, ()), "What the suite says.")
    shows_forms = takes_forms(context.session.client_capabilities)
    if asked := missing_arguments_result(params, described, takes_forms=shows_forms):
        return asked
    if PROMPTS.get(params.name) != tuple(given):
        raise MCPError(INVALID_PARAMS, f"no prompt {params.name} with these arguments")
    blocks: dict[str, list[Json]] = {
        "test_simple_prompt": [_text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments": [
            _text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")
        ],
        "test_prompt_with_embedded_resource": [
            _resource(given.get("resourceUri", ""), "text/plain", "Embedded resource content for testing."),
            _text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image": [IMAGE, _text("Please analyze the image above.")],
        "test_input_required_result_prompt": [_text(f"Use this context: {given.get('context')}")],
    }
    return {
        "resultType": "complete",
        "messages": [{"role": "user", "content": block} for block in blocks[params.name]],
    }


async def complete(_context: Context, _params: CompleteRequestParams) -> CompleteResult:
    """Nothing to complete."""
    return CompleteResult(completion=Completion(values=[], has_more=False))


async def call_tool(context: Context, params: CallToolRequestParams) -> Json:
    """The answer that the suite expects."""
    tool = TOOLS.get(params.name)
    if tool is not None:
        return await tool(context)
    if params.name in ASKED:
        return _asking(params)
    if params.name not in ANSWERS:
        raise MCPError(INVALID_PARAMS, f"no tool {params.name}")
    return ANSWERS[params.name]


def application() -> Starlette:
    """The endpoint as the gateway mounts it, behind its checks of addresses."""
    server = make_server("1")
    server.add_request_handler("tools/list", PaginatedRequestParams, list_tools)
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)
    server.add_request_handler("resources/list", PaginatedRequestParams, list_resources)
    server.add_request_handler("resources/templates/list", PaginatedRequestParams, list_templates)
    server.add_request_handler("resources/read", ReadResourceRequestParams, read_resource)
    server.add_request_handler("prompts/list", PaginatedRequestParams, list_prompts)
    server.add_request_handler("prompts/get", GetPromptRequestParams, get_prompt)
    server.add_request_handler("completion/complete", CompleteRequestParams, complete)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with serve_mcp_messages(server, dict, 2_000_000) as served:
            app.state.mcp = served
            yield

    async def exchange(request: Request) -> Response:
        try:
            check_addresses(request, public_url=None, hosts=(), origins=())
        except Exception as error:  # noqa: BLE001 - the gateway has a handler for it
            return problem_from_error(error).to_response()
        body = await request.body()
        try:
            message = json.loads(body)
        except ValueError:
            message = {}
        method = message.get("method") if isinstance(message, dict) else None
        return Exchange(request.app.state.mcp.manager, body, method)

    return Starlette(routes=[Route("/mcp", exchange, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(application(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
