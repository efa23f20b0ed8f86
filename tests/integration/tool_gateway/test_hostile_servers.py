"""Servers that attack the tool gateway: with floods, endless pages, wrong messages, and schemas that take years."""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from flotilla.contracts.errors import Invalid
from tests.integration.tool_gateway.conftest import Desk
from tests.support.hostile_mcp_server import SECRET
from tests.support.waiting import eventually
from tool_gateway import schemas
from tool_gateway.connections import LOOKS_APART_S, ServerAway, ServerConnection
from tool_gateway.offers import MAX_OFFERED_BYTES, OfferedToolDefinition
from tool_gateway.servers import McpServerConfig
from tool_gateway.stdio import start_stdio_server

INFO = {"name": "forgetful", "version": "1"}
PROGRAM = str(Path(__file__).parents[2] / "support" / "hostile_mcp_server.py")


def attacker(how: str, *arguments: str) -> McpServerConfig:
    """A server over stdio that attacks so."""
    return McpServerConfig(command=sys.executable, args=["-I", PROGRAM, how, *arguments], timeout_s=10)


@asynccontextmanager
async def connected(
    server: McpServerConfig,
) -> AsyncIterator[tuple[ServerConnection, list[list[OfferedToolDefinition]]]]:
    """A connection, and what was noted of the server's offers."""
    noted: list[list[OfferedToolDefinition]] = []

    async def note(_server: str, offers: list[OfferedToolDefinition]) -> None:
        noted.append(offers)

    connection, stop = ServerConnection("desk", server, note), asyncio.Event()
    work = asyncio.create_task(connection.run(stop))
    try:
        await connection.wait_connected(60)
        yield connection, noted
    finally:
        stop.set()
        await work


async def test_requests_whose_answers_it_never_reads_end_the_connection() -> None:
    async with connected(attacker("requests")) as (connection, _):
        with pytest.raises((MCPError, ServerAway)):
            await connection.call("add", {}, "key")
        await connection.wait_connected(60)


async def test_large_pages_without_end_are_cut() -> None:
    async with connected(attacker("large pages")) as (connection, _):
        assert 0 < sum(len(json.dumps(each.definition)) for each in connection.offers.values()) <= MAX_OFFERED_BYTES


async def test_empty_pages_without_end_leave_the_tools_that_there_are() -> None:
    async with connected(attacker("empty pages")) as (connection, _):
        assert set(connection.offers) == {"add"}


async def test_a_name_that_is_listed_twice_is_noted_once() -> None:
    async with connected(attacker("same name")) as (connection, noted):
        assert noted[0] == [connection.offers["add"]]


async def test_a_server_that_always_says_that_its_tools_changed_is_asked_at_a_limited_rate(tmp_path: Path) -> None:
    file = tmp_path / "looks"

    def looks() -> list[float] | None:
        times = [float(line) for line in file.read_text("utf-8").splitlines()]
        return times if len(times) >= 4 else None

    async with connected(attacker("changes", str(file))):
        times: list[float] = await eventually(looks, timeout_s=30)
    assert times[3] - times[0] >= 2 * LOOKS_APART_S


async def test_answers_under_other_ids_are_not_those_of_the_call() -> None:
    async with connected(attacker("other ids")) as (connection, _):
        answer = await connection.call("add", {}, "key")
        assert answer.model_dump()["content"][0]["text"] == "3"


async def test_what_the_client_says_of_wrong_messages_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(attacker("wrong notifications")) as (connection, _):
        await connection.call("add", {}, "key")
        await connection.call("add", {}, "key")
    assert SECRET not in caplog.text


class Forgetful(BaseHTTPRequestHandler):
    """A server over HTTP that has forgotten the session when a tool is called, as one that started again."""

    def do_POST(self) -> None:
        """Answer one message."""
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        results = {
            "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": INFO},
            "tools/list": {"tools": [{"name": "add", "inputSchema": {"type": "object"}}]},
        }
        if "id" not in message:
            self.answer(202)
        elif message["method"] == "tools/call":
            self.answer(404)
        elif message["method"] in results:
            self.answer(200, {"id": message["id"], "result": results[message["method"]]})
        else:
            self.answer(200, {"id": message["id"], "error": {"code": -32601, "message": "no such method"}})

    def do_GET(self) -> None:
        """Have no stream."""
        self.answer(405)

    def answer(self, status: int, message: dict[str, Any] | None = None) -> None:
        """Send one response."""
        body = json.dumps({"jsonrpc": "2.0", **message}).encode() if message else b""
        self.send_response(status)
        self.send_header("content-type", "application/json" if message else "text/plain")
        self.send_header("content-length", str(len(body)))
        self.send_header("mcp-session-id", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def forgetful() -> Iterator[McpServerConfig]:
    """Such a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield McpServerConfig(url=f"http://127.0.0.1:{server.server_port}/mcp", timeout_s=10)
        finally:
            server.shutdown()
            thread.join()


async def test_a_call_in_a_session_that_the_server_forgot_was_not_made(forgetful: McpServerConfig) -> None:
    async with connected(forgetful) as (connection, _):
        with pytest.raises(ServerAway, match="ended its session"):
            await connection.call("add", {}, "key")


def bomb(depth: int) -> dict[str, Any]:
    """A schema of a few lines that is applied 2 to the power of `depth` times."""
    twice = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(depth)}
    return {"$ref": "#/$defs/a0", "$defs": {**twice, f"a{depth}": {"type": "object"}}}


async def test_a_schema_that_takes_years_ends_in_seconds_and_holds_nothing_up() -> None:
    async with schemas.open_schema_checkers() as checkers:
        hard = asyncio.create_task(schemas.check_arguments(checkers.run, bomb(60), {}))
        await schemas.check_arguments(checkers.run, {"type": "object"}, {})
        assert not hard.done()
        with pytest.raises(Invalid, match="processor time"):
            await hard


def open_files() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_child_that_keeps_the_pipes_does_not_keep_the_connection(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    open_before = open_files()
    program = ["sh", "-c", f"setsid sh -c 'echo $$ > {file}; exec sleep 60' & exit 0"]
    said: list[str] = []
    try:
        async with asyncio.timeout(20):
            async with start_stdio_server(
                program, dict(os.environ), cwd=None, max_message_bytes=1000, says=said.append, ended=lambda: None
            ):
                await eventually(lambda: file.exists() and file.read_text("utf-8"), timeout_s=10)
        await eventually(lambda: open_files() <= open_before, timeout_s=10)
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text("utf-8")), signal.SIGKILL)


async def test_what_it_says_in_pieces_is_passed_on_by_the_line() -> None:
    pieces = "import sys, time; w = sys.stderr.write; w('tok'); sys.stderr.flush(); time.sleep(0.2); w('en\\nrest')"
    said: list[str] = []
    async with start_stdio_server(
        [sys.executable, "-I", "-c", pieces], {}, cwd=None, max_message_bytes=1000, says=said.append, ended=lambda: None
    ):
        await eventually(lambda: len(said) == 2, timeout_s=10)
    assert said == ["token", "rest"]


class TestAway:
    """With a server that can't be started."""

    @pytest.fixture
    def configuration(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """The server's entry."""
        return {**configuration, "command": "/bin/false", "args": []}

    async def test_who_may_not_call_its_tools_does_not_wait_for_it(self, desk: Desk) -> None:
        reply = await desk.call("desk.add", a=1, b=2)
        assert reply["failure"]["type"] == "ToolNotAllowed"
