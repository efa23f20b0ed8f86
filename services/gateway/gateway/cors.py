"""Which web pages of other origins may read answers of the API (CORS; source: the Fetch standard, section 3.2).

Answers are opened to listed origins alone and never to cookies: what such a page may do is what its token may.
"""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/v1/"
PREFLIGHT_S = 600
"""How long a browser may remember what it was allowed to send; Chromium keeps at most two hours."""
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "traceparent", "X-Namespace")
_EXPOSED = ("Location", "Retry-After")


class CorsMiddleware(CORSMiddleware):
    """ASGI middleware: CORS for the routes of the API; everything else stays with its own origin."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_HEADERS,
            expose_headers=_EXPOSED,
            max_age=PREFLIGHT_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
