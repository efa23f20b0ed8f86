"""`/mcp` for the protocol's own client in TypeScript, with a call that waits for two people."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.integration.tool_gateway.conftest import configuration, desk, further_settings, servers
from tests.integration.tool_gateway.test_mcp_endpoint import House, house, wait_s

__all__ = ["configuration", "desk", "further_settings", "house", "servers", "wait_s"]
CLIENT = Path(__file__).parent / "client.mjs"


async def called(house: House, tool: str, arguments: dict[str, Any], *approvers: str) -> dict[str, Any]:
    """Return what the client prints, while people approve."""
    key = await house.key()
    program = (os.environ["NODE"], str(CLIENT), f"{house.gateway.url}/mcp", key, tool, json.dumps(arguments))
    client = await asyncio.create_subprocess_exec(
        *program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await house.approve(*approvers)
    out, err = await client.communicate()
    assert client.returncode == 0, err.decode()
    printed: dict[str, Any] = json.loads(out)
    return printed


async def test_it_lists_and_calls_and_waits_for_two_people(house: House) -> None:
    quick = await called(house, "mcp__desk__add", {"a": 1, "b": 2})
    assert quick["result"]["structuredContent"] == {"result": 3}
    assert {"mcp__desk__add", "search_knowledge_base", "list_runs"} <= set(quick["tools"])
    assert set(quick["templates"]) == {"documents", "sessions", "runs"}
    waited = await called(house, "mcp__desk__wipe", {"path": "/desk"}, "ann", "ben")
    assert "wiped /desk" in json.dumps(waited["result"])
    assert house.desk.calls() == ["add 1 2", "wipe /desk"]
