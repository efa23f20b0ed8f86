"""Servers of the protocol's own project, in TypeScript, behind the tool gateway's connections."""

import os
import signal
from pathlib import Path

from mcp import MCPError

from flotilla.agent import ToolNotCalled
from tests.integration.tool_gateway.test_servers import called, connected
from tests.support.waiting import eventually
from tool_gateway.servers import McpServerConfig

MODULES = Path(__file__).parent / "node_modules/@modelcontextprotocol"


def server(name: str, *arguments: str, **settings: object) -> McpServerConfig:
    """A server over stdio."""
    program = str(MODULES / name / "dist/index.js")
    return McpServerConfig(command=os.environ["NODE"], args=[program, *arguments], **settings)  # type: ignore[arg-type]


def child_with(word: str) -> int:
    """The id of the one child process that has `word` on its command line."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text("utf-8").split()
    [child] = [pid for pid in children if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(child)


async def test_the_everything_server_is_listed_and_called_and_asks_in_vain() -> None:
    async with connected(server("server-everything", timeout_s=20)) as connection:
        assert {"echo", "get-sum"} <= set(connection.offers)
        assert await called(connection, "echo", {"message": "ahoy"}) == "Echo: ahoy"
        assert "5" in await called(connection, "get-sum", {"a": 2, "b": 3})
        # The client says that it takes no questions, so the tools that ask are not even on offer.
        assert not [name for name in connection.offers if "elicit" in name or "sampl" in name]
        # Its environment is its own: nothing of the service's.
        assert "FLOTILLA" not in await called(connection, "get-env", {})


async def test_the_filesystem_server_stays_in_its_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "secret"
    inside.mkdir()
    outside.write_text("secret", "utf-8")
    (inside / "note.txt").write_text("the lamp is lit", "utf-8")
    async with connected(server("server-filesystem", str(inside))) as connection:
        offer = connection.offers["write_file"]
        assert (offer.risk, connection.offers["read_text_file"].risk) == ("high", "medium")
        assert await called(connection, "read_text_file", {"path": str(inside / "note.txt")}) == "the lamp is lit"
        assert "denied" in await called(connection, "read_text_file", {"path": str(outside)})


async def test_a_server_that_is_killed_is_connected_again() -> None:
    async with connected(server("server-everything", timeout_s=20)) as connection:
        first = await called(connection, "echo", {"message": "one"})
        os.kill(child_with("server-everything"), signal.SIGKILL)

        async def answers() -> bool:
            try:
                return bool(await called(connection, "echo", {"message": "one"}) == first)
            except (MCPError, ToolNotCalled):
                return False

        await eventually(answers, timeout_s=60)
