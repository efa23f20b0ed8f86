"""The HTTP application: routes behind the guard, errors as problem documents, one OpenAPI document."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import FlotillaError
from flotilla.runtime import Health, health_routes
from gateway.a2a.errors import PREFIX as A2A_PREFIX
from gateway.a2a.errors import problem_response as a2a_response
from gateway.auth.origin import CONSOLE_HEADER
from gateway.auth.sign_ins import COOKIE
from gateway.console_files import ConsoleFiles
from gateway.cors import CorsMiddleware
from gateway.guard import GuardedRoute, RequestGuard
from gateway.openai.errors import PREFIX, openai_error_response
from gateway.problems import Problem, problem_from_error
from gateway.reference import api_reference_route
from gateway.request_observer import RequestObserver
from gateway.routes import (
    a2a,
    access,
    agents,
    analytics,
    archives,
    audit,
    dead_letters,
    documents,
    feedback,
    fleet,
    governed,
    keys,
    log_trees,
    login,
    mcp,
    notify,
    openai,
    openai_files,
    orders,
    outbox,
    pipelines,
    privacy,
    questions,
    replays,
    runs,
    schedules,
    sessions,
    signers,
    temporal,
    tenants,
    tokens,
    tools,
    workflows,
)
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ProblemDocument
from gateway.security_headers import SecurityHeaders
from gateway.services import GatewayServices

VERSION = "1"
ROUTERS = tuple(
    module.router
    for module in (
        sessions,
        access,
        replays,
        runs,
        workflows,
        schedules,
        notify,
        feedback,
        documents,
        governed,
        questions,
        orders,
        pipelines,
        agents,
        tools,
        fleet,
        dead_letters,
        outbox,
        keys,
        tokens,
        signers,
        privacy,
        temporal,
        tenants,
        login,
        analytics,
        archives,
        audit,
        log_trees,
        openai,
        openai_files,
        a2a,
        mcp,
    )
)
# RequestObserver has one span for a request. FastAPI's would be a second one beside it, and records of refused requests
# have what was in them.
_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
_DESCRIPTION = """Ask questions, follow runs, read and travel in histories that can be trusted.

Errors are problem documents (RFC 9457) with a stable `code`. Listings page by cursor. The acting person is always the
subject of the token. A service whose key has the right acts for one of its users, where an operation says
`x-on-behalf-of`, with the header `Flotilla-On-Behalf-Of: SUBJECT` (percent-encoded UTF-8)."""


def create_application(
    services: GatewayServices, guard: RequestGuard, health: Health, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """The application over `services`, which pages of `cors_origins` may read; opens nothing."""
    app = FastAPI(
        title="Flotilla",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        description=_DESCRIPTION,
        telemetry=_TELEMETRY,
    )
    app.state.services = services
    app.state.guard = guard
    for router in ROUTERS:
        app.router.routes.extend(router.routes)
    app.router.routes.extend(route for route in health_routes(health) if route.path != "/metrics")
    app.router.routes.append(Route("/asyncapi.json", _asyncapi))
    app.router.routes.append(api_reference_route(partial(_openapi, app)))
    app.router.routes.extend(ConsoleFiles().routes())
    app.add_middleware(RequestObserver, respond=_response)
    app.add_middleware(SecurityHeaders)
    if cors_origins:
        app.add_middleware(CorsMiddleware, origins=cors_origins)
    for kind in (FlotillaError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


async def _asyncapi(_request: Request) -> Response:
    """The fleet's channels, AsyncAPI 3.0."""
    return Response(await asyncio.to_thread(_asyncapi_document), media_type="application/json")


@cache
def _asyncapi_document() -> bytes:
    from flotilla.bus.asyncapi import asyncapi_document  # takes a while to import

    return to_json(asyncapi_document(VERSION))


async def _answer(request: Request, error: Exception) -> Response:
    problem = problem_from_error(error)
    path = request.url.path
    if path == mcp.PATH and problem.status == HTTPStatus.UNAUTHORIZED:
        problem = replace(problem, headers={**problem.headers, **mcp.challenge(request.app.state.services, request)})
    return _response(path, problem)


def _response(path: str, problem: Problem) -> Response:
    """A problem in the words of the API that the path belongs to."""
    if path.startswith(A2A_PREFIX):
        return a2a_response(problem, path)
    return openai_error_response(problem) if path.startswith(PREFIX) else problem.to_response()


def guarded_routes() -> list[GuardedRoute]:
    """Every route of the API with its access: what a test enumerates."""
    return [route for router in ROUTERS for route in router.routes if isinstance(route, GuardedRoute)]


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["ProblemDocument"] = _problem_schema()
        components["securitySchemes"] = {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, a JWT of the OpenID provider, or, where an operation says "
                "`x-browser-scope`, a browser token with that scope.",
            },
            "console": {
                "type": "apiKey",
                "in": "cookie",
                "name": COOKIE,
                "description": "The console's sign-in, over https as `__Host-flotilla_sign_in`. Requests that change "
                f"something need the header `{CONSOLE_HEADER}: 1`, and a browser that says they come from here.",
            },
        }
        for route in guarded_routes():
            _declare_access(document, route)
        app.openapi_schema = document
    return app.openapi_schema


def _problem_schema() -> dict[str, Any]:
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    (field_error,) = schema.pop("$defs").values()
    schema["properties"]["errors"] = {"type": "array", "items": field_error}
    return schema


def _declare_access(document: dict[str, Any], route: GuardedRoute) -> None:
    for method in route.methods or ():
        operation = document["paths"][route.path_format][method.lower()]
        if route.access.roles:
            operation["security"] = [{"bearer": []}, {"console": []}]
            operation["x-roles"] = sorted(route.access.roles)
        if route.access.browsers:
            operation["x-browser-scope"] = route.access.browsers
        if route.access.for_others:
            operation["x-on-behalf-of"] = True
            operation["responses"].setdefault("400", documented_errors(400)[400])
