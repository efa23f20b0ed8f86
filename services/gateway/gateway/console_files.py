"""The console's built files: one page for all its addresses, and what the page loads.

They are read once, so no request can name a file that is not among them. `make console` builds them into
`gateway/console_dist`.
"""

import gzip
import mimetypes
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from gateway.console_pages import PAGES

FOLDER = Path(__file__).parent / "console_dist"
NONCE = "__CSP_NONCE__"
"""What the built page has where this response's nonce belongs."""
ASSETS = "/assets/"
IMMUTABLE = "public, max-age=31536000, immutable"
"""Their names hold a hash of what is in them."""
_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; img-src 'self'; "
    "connect-src 'self'; font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_MIN_COMPRESSED = 1024
_NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Flotilla</title>
<h1>Flotilla</h1>
<p>The API is at <code>/v1</code>, its reference at <a href="/docs">/docs</a>.</p>
<p>The console is not built. <code>make console</code> builds it (with Node 20 or newer);
then start the gateway again.</p>
</html>
"""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    compressed: bytes | None
    media_type: str


class ConsoleFiles:
    """Serves the files of `folder`; where there are none, a page that says how to make them."""

    def __init__(self, folder: Path = FOLDER) -> None:
        index = folder / "index.html"
        self._index = index.read_text() if index.is_file() else None
        self._assets = _read(folder / "assets") if self._index is not None else {}
        self._others = _read(folder) if self._index is not None else {}

    def routes(self) -> list[Route]:
        """The start page, the addresses that the page routes itself, and what it loads."""
        pages = [Route("/", self._page)]
        for page in PAGES:
            pages += [Route(f"/{page}", self._page), Route(f"/{page}/{{rest:path}}", self._page)]
        others = [Route(f"/{name}", self._other) for name in self._others if name != "index.html"]
        return [*pages, *others, Route(f"{ASSETS}{{name:path}}", self._asset)]

    async def _page(self, _request: Request) -> Response:
        nonce = secrets.token_urlsafe(18)
        headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        return HTMLResponse((self._index or _NOT_BUILT).replace(NONCE, nonce), headers=headers)

    async def _asset(self, request: Request) -> Response:
        return _answer(request, self._assets.get(request.path_params["name"]), IMMUTABLE)

    async def _other(self, request: Request) -> Response:
        return _answer(request, self._others.get(request.url.path.removeprefix("/")), "no-cache")


def _read(folder: Path) -> Mapping[str, _File]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.name: _file(file) for file in files if file.is_file()}


def _file(path: Path) -> _File:
    body = path.read_bytes()
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    is_text = media_type.startswith("text/") or media_type.endswith(("javascript", "json", "svg+xml"))
    return _File(body, gzip.compress(body, mtime=0) if is_text and len(body) >= _MIN_COMPRESSED else None, media_type)


def _answer(request: Request, file: _File | None, cache: str) -> Response:
    if file is None:
        return Response("no such file\n", 404, media_type="text/plain")
    headers = {"Cache-Control": cache, "Vary": "Accept-Encoding"}
    if file.compressed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
        return Response(file.compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.media_type)
    return Response(file.body, headers=headers, media_type=file.media_type)
