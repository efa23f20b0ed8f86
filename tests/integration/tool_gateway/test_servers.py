"""Connections to real MCP servers, over stdio and over HTTP: what they may send, and that they end and return."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from flotilla_devstack.ports import free_port
from tests.support.waiting import eventually
from tool_gateway import schemas
from tool_gateway.connections import ServerConnection
from tool_gateway.governed import GovernedMcpTool
from tool_gateway.offers import OfferedToolDefinition
from tool_gateway.servers import McpServerConfig

ROOT = Path(__file__).parents[3]
TOKEN = "t0ken-of-the-desk"
PARENT = """
import asyncio, sys
from tool_gateway.stdio import start_stdio_server
SLEEPER = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
async def main():
    argv = [sys.executable, "-c", SLEEPER, sys.argv[1]]
    async with start_stdio_server(argv, {}, cwd=None, max_message_bytes=1000, says=print, ended=lambda: None):
        await asyncio.Event().wait()
asyncio.run(main())
"""


@asynccontextmanager
async def connected(server: McpServerConfig) -> AsyncIterator[ServerConnection]:
    """A connection that is kept as long as the block."""

    async def note(_server: str, _offers: list[OfferedToolDefinition]) -> None:
        """Note nothing."""

    connection = ServerConnection("desk", server, note)
    stop = asyncio.Event()
    work = asyncio.create_task(connection.run(stop))
    try:
        await connection.wait_connected(60)
        yield connection
    finally:
        stop.set()
        await work


async def called(connection: ServerConnection, tool: str, arguments: Mapping[str, Any]) -> Any:
    """Return what a tool answers, as its first block's text."""
    async with schemas.open_schema_checkers() as checkers:
        governed = GovernedMcpTool(connection.offers[tool], connection, checkers.run)
        answer: Any = await governed(None, governed.validated_arguments(arguments), "key")
    return answer["content"][0]["text"]


async def test_the_time_server_is_listed_and_called() -> None:
    server = McpServerConfig(command=sys.executable, args=["-m", "mcp_server_time", "--local-timezone", "UTC"])
    async with connected(server) as connection:
        assert {"get_current_time", "convert_time"} <= set(connection.offers)
        assert "Europe/Amsterdam" in await called(connection, "get_current_time", {"timezone": "Europe/Amsterdam"})


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """A git repository with one commit."""
    for command in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "first commit")):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)
    return str(tmp_path)


async def test_the_git_server_reads_its_repository(repository: str) -> None:
    program = ["-m", "mcp_server_git", "--repository", repository]
    async with connected(McpServerConfig(command=sys.executable, args=program, tools=["git_log"])) as connection:
        assert set(connection.offers) == {"git_log"}
        assert "first commit" in await called(connection, "git_log", {"repo_path": repository})


@contextmanager
def desk_over_http(folder: Path) -> Iterator[McpServerConfig]:
    """The tests' server over HTTP."""
    port = free_port()
    environment = {**os.environ, "API_TOKEN": TOKEN}
    (folder / "token").write_text(TOKEN, "utf-8")
    program = [sys.executable, "-m", "tests.support.mcp_server", str(folder), str(port)]
    with subprocess.Popen(program, cwd=ROOT, env=environment) as process:
        try:
            yield McpServerConfig(
                url=f"http://127.0.0.1:{port}/mcp",
                headers={"Authorization": f"Bearer ${{file:{folder / 'token'}}}"},
                timeout_s=20,
                max_message_bytes=200_000,
                max_result_bytes=50_000,
            )
        finally:
            process.kill()


async def test_a_server_over_http_gets_its_credential_and_is_limited(tmp_path: Path) -> None:
    with desk_over_http(tmp_path) as server:
        async with connected(server) as connection:
            assert await called(connection, "add", {"a": 1, "b": 2}) == "3"
            assert await called(connection, "leak", {}) == "token: ***"
            with pytest.raises((MCPError, TimeoutError)):
                await called(connection, "flood", {"size": 20_000_000})
            await connection.wait_connected(60)
            assert await called(connection, "add", {"a": 2, "b": 2}) == "4"


@pytest.mark.parametrize("token", ['with "quotes" \\ and é', "false"])
async def test_a_credential_is_masked_however_json_writes_it(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token, "utf-8")
    server = McpServerConfig(
        command=sys.executable,
        args=["-m", "tests.support.mcp_server", str(tmp_path)],
        cwd=str(ROOT),
        env={"API_TOKEN": f"${{file:{tmp_path / 'token'}}}"},
    )
    async with connected(server) as connection:
        assert await called(connection, "leak", {}) == "token: ***"
        assert await called(connection, "add", {"a": 1, "b": 2}) == "3"


async def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    server = McpServerConfig(
        command=sys.executable, args=["-m", "tests.support.mcp_server", str(tmp_path)], cwd=str(ROOT)
    )
    async with connected(server) as connection:
        pid = (tmp_path / "pid").read_text("utf-8")
        os.kill(int(pid), signal.SIGKILL)
        await eventually(lambda: (tmp_path / "pid").read_text("utf-8") != pid, timeout_s=30)
        await connection.wait_connected(60)
        assert await called(connection, "add", {"a": 1, "b": 2}) == "3"


async def test_a_server_dies_with_a_service_that_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, str(file))
    await eventually(lambda: file.exists() and file.read_text("utf-8"), timeout_s=30)
    child = file.read_text("utf-8")
    parent.kill()
    await parent.wait()
    await eventually(lambda: not Path(f"/proc/{child}").exists(), timeout_s=10)
