"""What is seen of each request from outside: a server span, a duration, a problem document for what went wrong."""

import time
from collections.abc import Callable

import structlog
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flotilla.telemetry import span
from flotilla.telemetry.metrics import HTTP_DURATION
from gateway.problems import Problem, problem_from_error

UNMATCHED = "unmatched"
SERVER_ERROR = 500
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
log = structlog.get_logger(__name__)


class RequestObserver:
    """ASGI middleware, outermost. Semantic conventions: OpenTelemetry HTTP server spans."""

    def __init__(self, app: ASGIApp, respond: Callable[[str, Problem], Response]) -> None:
        """`respond` makes of a problem what clients of a path read."""
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(send, self._respond)
        started = time.perf_counter()
        headers = dict(scope["headers"])
        parent = headers.get(b"traceparent", b"").decode("latin-1") or None
        with span(_method(scope), kind=SpanKind.SERVER, parent=parent) as active:
            try:
                await self._app(scope, receive, exchange.send)
            except Exception as error:  # noqa: BLE001 - the edge: told to the client, logged and counted
                await exchange.fail(error, scope, receive)
            finally:
                _describe(active, scope, exchange.status)
                HTTP_DURATION.labels(_route(scope), _method(scope), str(exchange.status)).observe(
                    time.perf_counter() - started
                )


class _Exchange:
    """Remembers what was answered."""

    def __init__(self, send: Send, respond: Callable[[str, Problem], Response]) -> None:
        self._send = send
        self._respond = respond
        self.status = SERVER_ERROR
        self._started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._started = True
        await self._send(message)

    async def fail(self, error: Exception, scope: Scope, receive: Receive) -> None:
        problem = problem_from_error(error)
        if problem.status == SERVER_ERROR:
            log.error("request_failed", route=_route(scope), method=scope["method"], exc_info=error)
        if self._started:
            raise error
        await self._respond(scope["path"], problem)(scope, receive, self.send)


def _route(scope: Scope) -> str:
    """The template, never the path: one label value for each route."""
    return str(getattr(scope.get("route"), "path", UNMATCHED))


def _method(scope: Scope) -> str:
    return str(scope["method"]) if scope["method"] in _METHODS else "_OTHER"


def _describe(active: Span, scope: Scope, status: int) -> None:
    if not active.is_recording():
        return
    active.update_name(f"{_method(scope)} {_route(scope)}")
    active.set_attributes(
        {
            "http.request.method": _method(scope),
            "http.route": _route(scope),
            "http.response.status_code": status,
            "url.path": scope["path"],
        }
    )
    if status >= SERVER_ERROR:
        active.set_status(StatusCode.ERROR)
