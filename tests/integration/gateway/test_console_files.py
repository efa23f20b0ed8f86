"""The page at `/`, its addresses, its assets, and the headers of every answer."""

import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from gateway.console_files import ConsoleFiles
from gateway.security_headers import SecurityHeaders
from tests.support.gateway import RunningGateway

PAGE = (
    '<!doctype html><html lang="en"><meta name="csp-nonce" content="__CSP_NONCE__">'
    '<script nonce="__CSP_NONCE__" type="module" src="/assets/index-1a2b.js"></script></html>'
)
SCRIPT = "export const words = 1;\n" * 200


@pytest.fixture
async def built(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An application over a folder such as the build makes."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "favicon.svg").write_text("<svg/>")
    (tmp_path / "assets" / "index-1a2b.js").write_text(SCRIPT)
    app = SecurityHeaders(Starlette(routes=ConsoleFiles(tmp_path).routes()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as client:
        yield client


async def test_every_address_of_the_console_is_the_same_page_with_a_nonce_of_its_own(built: httpx.AsyncClient) -> None:
    nonces = set()
    for path in ("/", "/login", "/ask", "/runs", "/runs/r-1", "/sessions", "/sessions/s/x", "/approvals/a", "/fleet",
                 "/documents", "/orders", "/runs/%2e%2e%2fetc"):  # fmt: skip
        answer = await built.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        (nonce,) = set(re.findall(r'(?:nonce|content)="([^"]+)"', answer.text))
        nonces.add(nonce)
        policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        assert policy["script-src"] == f"'self' 'nonce-{nonce}'"
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in answer.headers["content-security-policy"]
    assert len(nonces) == 12


async def test_assets_are_kept_indefinitely_and_compressed_for_who_can_read_it(built: httpx.AsyncClient) -> None:
    answer = await built.get("/assets/index-1a2b.js", headers={"Accept-Encoding": "gzip"})
    assert answer.text == SCRIPT
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]
    assert int(answer.headers["content-length"]) == len(gzip.compress(SCRIPT.encode(), mtime=0))
    plain = await built.get("/assets/index-1a2b.js", headers={"Accept-Encoding": "identity"})
    assert (plain.text, plain.headers.get("content-encoding")) == (SCRIPT, None)
    assert (await built.get("/favicon.svg")).headers["content-type"] == "image/svg+xml"


async def test_nothing_outside_the_folder_is_served(built: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("made after the start")
    for path in ("/assets/..%2findex.html", "/assets/../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/assets/",
                 "/assets/none.js", "/assets//etc/passwd", "/secret.txt", "/elsewhere", "/v2"):  # fmt: skip
        answer = await built.get(path)
        assert answer.status_code == 404, path
        assert "root:" not in answer.text


async def test_without_a_build_the_start_page_says_how_to_make_one(tmp_path: Path) -> None:
    app = Starlette(routes=ConsoleFiles(tmp_path / "none").routes())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as client:
        answer = await client.get("/")
    assert answer.status_code == 200
    assert "make console" in answer.text
    assert "'unsafe" not in answer.headers["content-security-policy"]


async def test_every_answer_is_hardened(gateway: RunningGateway) -> None:
    client = await gateway.client_of("olga", "viewer")
    for path in ("/", "/assets/none", "/v1/runs", "/v1/runs/none", "/none", "/openapi.json", "/livez", "/auth/config"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
