"""The conformance suite of the protocol's own project, against the endpoint: `make test-conformance` brings it."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from flotilla_devstack.ports import free_port
from tests.support.waiting import eventually

HERE = Path(__file__).parent
SUITE = HERE / "node_modules/@modelcontextprotocol/conformance/dist/index.js"


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where the endpoint listens."""
    port = free_port()
    server = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.mcp_conformance.server", str(port))
    try:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def listens() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{port}/mcp")).status_code == 405
                except httpx.TransportError:
                    return False

            await eventually(listens, timeout_s=60)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        await server.wait()


@pytest.mark.parametrize("revision", ["2026-07-28"])
async def test_the_suite_finds_only_what_is_not_offered(url: str, revision: str) -> None:
    process = await asyncio.create_subprocess_exec(
        os.environ["NODE"],
        SUITE,
        "server",
        "--url",
        url,
        "--requirements",
        revision,
        "--expected-failures",
        HERE / "expected-failures.yml",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    report = out.decode()
    assert process.returncode == 0, report[-4000:]
    assert re.search(r"✓ server-stateless: [0-9]+ passed, 0 failed", report), report[-4000:]
