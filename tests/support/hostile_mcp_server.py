"""An MCP server over stdio that attacks its client: `python tests/support/hostile_mcp_server.py HOW [FILE]`.

It imports nothing of the project, so that it starts at once.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

HOW = sys.argv[1] if len(sys.argv) > 1 else ""
SECRET = "s3cr3t-of-the-desk"


def send(**message: Any) -> None:
    """Send one message."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def tool(name: str, description: str = "") -> dict[str, Any]:
    """Describe a tool."""
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


def listed(page: int) -> dict[str, Any]:
    """Return a page of tools."""
    if HOW == "large pages":
        return {"tools": [tool(f"t{page}", "x" * 90_000)], "nextCursor": str(page + 1)}
    if HOW == "empty pages":
        return {"tools": [tool("add")] if page == 0 else [], "nextCursor": str(page + 1)}
    if HOW == "same name":
        return {"tools": [tool("add", "one"), tool("add", "two"), tool("a b")]}
    return {"tools": [tool("add")]}


def flood() -> None:
    """Send requests without end, and read no answer."""
    number = 0
    while True:
        number += 1
        send(id=f"p{number}", method="ping")


def answer(message: dict[str, Any]) -> None:
    """Answer one message."""
    method, number = message.get("method"), message.get("id")
    if number is None:
        return
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {"listChanged": True}}}
        send(id=number, result={**result, "serverInfo": {"name": "hostile", "version": "1"}})
    elif method == "tools/list":
        send(id=number, result=listed(int((message.get("params") or {}).get("cursor") or 0)))
        if HOW == "changes":
            with Path(sys.argv[2]).open("a", encoding="utf-8") as file:
                file.write(f"{time.monotonic()}\n")
            send(method="notifications/tools/list_changed")
    elif method == "tools/call":
        if HOW == "requests":
            flood()
        if HOW == "wrong notifications":
            send(method="notifications/message", params={"level": SECRET, "data": "x"})
        if HOW == "other ids":
            send(id=f"{number}0", result={"content": [{"type": "text", "text": "for another"}]})
        send(id=number, result={"content": [{"type": "text", "text": "3"}]})
    else:
        send(id=number, error={"code": -32601, "message": "no such method"})


if __name__ == "__main__":
    for line in sys.stdin:
        answer(json.loads(line))
