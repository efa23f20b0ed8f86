"""An MCP server with the tools that tests need: `python -m tests.support.mcp_server FOLDER [PORT]`.

It speaks over stdio, or over HTTP with those who send `Authorization: Bearer` and its API_TOKEN.

What it was called with is in the folder, a line per call, so that tests count effects across its deaths.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
server: MCPServer[Any] = MCPServer("tests", log_level="ERROR")


class Colour(BaseModel):
    """What the server asks people for."""

    colour: str


def _note(line: str) -> None:
    with (FOLDER / "calls").open("a", encoding="utf-8") as calls:
        calls.write(line + "\n")


def described(name: str, default: str) -> str:
    """The tool's description: that of a file of its name, which a test can change."""
    file = FOLDER / f"{name}.description"
    return file.read_text("utf-8") if file.exists() else default


@server.tool(description=described("add", "Adds two numbers."))
def add(a: int, b: int) -> int:
    """Adds."""
    _note(f"add {a} {b}")
    return a + b


@server.tool(annotations=ToolAnnotations(destructive_hint=True, read_only_hint=False))
def wipe(path: str) -> str:
    """Wipes a path."""
    _note(f"wipe {path}")
    return f"wiped {path}"


@server.tool()
async def hang() -> str:
    """Never answers."""
    _note("hang")
    await asyncio.Event().wait()
    return ""


@server.tool()
async def slowly(name: str) -> str:
    """Has its effect in the middle of half a second."""
    await asyncio.sleep(0.25)
    _note(f"slowly {name}")
    await asyncio.sleep(0.25)
    return f"did {name}"


@server.tool()
def die() -> str:
    """Has its effect and dies before it answers."""
    _note("die")
    os._exit(1)


@server.tool()
def flood(size: int) -> str:
    """Answers with as many bytes."""
    _note("flood")
    return "x" * size


@server.tool()
async def ask(ctx: Context) -> str:
    """Asks people for something."""
    answer = await ctx.elicit("Which colour?", Colour)
    return str(answer)


@server.tool()
def leak() -> str:
    """Says and returns its credential."""
    sys.stderr.write(f"the token is {os.environ['API_TOKEN']}\n")
    sys.stderr.flush()
    return f"token: {os.environ['API_TOKEN']}"


@server.tool()
def environment() -> list[str]:
    """Names what it sees of its environment."""
    return sorted(os.environ)


class Guarded:
    """The server's application, for those who know the token."""

    def __init__(self) -> None:
        self._app = server.streamable_http_app()
        self._expected = f"Bearer {os.environ.get('API_TOKEN')}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != self._expected:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


def main() -> None:
    """Serve until stdin ends, or until the process is stopped."""
    logging.disable()
    (FOLDER / "pid").write_text(str(os.getpid()), "utf-8")
    if len(sys.argv) > 2:
        uvicorn.run(Guarded(), host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
    else:
        server.run()


if __name__ == "__main__":
    main()
