"""Who is notified by webhook: remembers what it got, and answers as a test wants."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flotilla.runtime.health import http_server

SECRET = "whsec_c2VjcmV0IG9mIGFjbWU="
SIGNING_KEY = b"secret of acme"
"""What `SECRET` stands for."""


@dataclass
class Receiver:
    """Remembers what it got, and answers as told."""

    port: int
    codes: list[int] = field(default_factory=list)
    got: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: Request) -> Response:
        code = self.codes.pop(0) if self.codes else 200
        self.got.append((code, dict(request.headers), await request.body()))
        return Response("thank you", status_code=code)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = Starlette(routes=[Route("/{path:path}", self.handle, methods=["POST"])])
        async with http_server(app, "127.0.0.1", self.port, grace_s=0).serving():
            yield

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def taken(self, run_id: str) -> list[str]:
        """The kinds of the run's notices that were answered with 200."""
        bodies = [json.loads(body) for code, _, body in self.got if code == 200]
        return [body["type"] for body in bodies if body["data"]["run_id"] == run_id]
