"""The tool gateway as its service runs it, with one MCP server as a child process."""

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.postgres import Pool, tenant_transaction
from flotilla.runtime import Runtime
from flotilla_devstack.ports import LOOPBACK, free_port
from tests.support.agent_service import service_running
from tests.support.agents import open_session, publish, replies, rows, task
from tests.support.postgres import Database
from tests.support.redis_users import url_of
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually
from tool_gateway.main import run
from tool_gateway.settings import Settings

OFFERED = "SELECT tool, sha256, definition, risk FROM flotilla_ops.offered_tools WHERE server = 'desk' ORDER BY tool"
ALLOW = """
INSERT INTO flotilla.allowed_tools (tenant_id, server, tool, sha256, definition, allowed_by)
SELECT $1, server, tool, sha256, definition, 'alice' FROM flotilla_ops.offered_tools
ON CONFLICT (tenant_id, server, tool) DO UPDATE SET sha256 = excluded.sha256
"""
POLICY = """
version = "1"
extends = "builtin:local"

[actions."mcp.desk.add"]
risk = "low"

[actions."*"]
risk = "low"
"""
SECRET = "s3cr3t-of-the-desk"


@dataclass
class Desk:
    """A running tool gateway with the server `desk`."""

    pool: Pool
    redis: Redis
    folder: Path
    url: str
    """Where agents that hold a task call tools."""
    runtime: Runtime | None = None
    """Of the tool gateway, where it runs in this process."""

    async def call(self, tool: str, task_id: str = "t1", **arguments: Any) -> dict[str, Any]:
        """Return the reply to a call."""
        await publish(self.pool, self.redis, task(task_id, "mcp", input={"tool": tool, "arguments": arguments}))
        return await self.reply(task_id)

    async def reply(self, task_id: str) -> dict[str, Any]:
        """Return the last reply to a task, once there is one."""

        async def found() -> list[dict[str, Any]]:
            said = await replies(self.redis, agent="mcp")
            return [each for each in said if each["task_id"] == task_id and each["status"] in ("done", "failed")]

        answers: list[dict[str, Any]] = await eventually(found, timeout_s=30)
        return answers[-1]

    def calls(self) -> list[str]:
        """Return what the server was called with."""
        file = self.folder / "calls"
        return file.read_text("utf-8").splitlines() if file.exists() else []

    async def offered(self) -> dict[str, dict[str, Any]]:
        """Return what the server offers, once it has connected."""

        async def found() -> dict[str, dict[str, Any]]:
            return {row["tool"]: row for row in await rows(self.pool, OFFERED)}

        tools: dict[str, dict[str, Any]] = await eventually(found, timeout_s=30)
        return tools

    async def allow_all(self, tenant_id: str = "default") -> None:
        """Allow everything as it is offered now."""
        await self.offered()
        async with tenant_transaction(self.pool, tenant_id) as connection:
            await connection.execute(ALLOW, tenant_id)


@pytest.fixture
def configuration(tmp_path: Path) -> dict[str, Any]:
    """The server's entry; tests change it before they ask for `desk`."""
    return {
        "command": sys.executable,
        "args": ["-m", "tests.support.mcp_server", str(tmp_path)],
        "cwd": str(Path.cwd()),
        "env": {"API_TOKEN": "${file:" + str(tmp_path / "token") + "}"},
        "risk": "low",
        "tenants": ["default", "acme"],
        "timeoutS": 30,
        "maxMessageBytes": 200_000,
        "maxResultBytes": 50_000,
    }


@pytest.fixture
def servers(configuration: dict[str, Any]) -> dict[str, Any]:
    """All servers' entries."""
    return {"desk": configuration}


@pytest.fixture
def further_settings() -> dict[str, Any]:
    """Of the tool gateway; tests override it."""
    return {}


@pytest.fixture
async def desk(
    database: Database,
    redis_url: str,
    pool: Pool,
    tmp_path: Path,
    servers: dict[str, Any],
    *,
    further_settings: dict[str, Any],
) -> AsyncIterator[Desk]:
    """A tool gateway at work."""
    await open_session(pool)
    (tmp_path / "token").write_text(SECRET, "utf-8")
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": servers}), "utf-8")
    (tmp_path / "policy.toml").write_text(POLICY, "utf-8")
    port = free_port()
    settings = Settings.model_validate(
        {
            "postgres_dsn": database.dsn("flotilla_agent_mcp"),
            "redis_url": await url_of(redis_url, "mcp-agent"),
            "ticket_public_key_file": PUBLIC_KEY_FILE,
            "mcp_servers_file": tmp_path / "servers.json",
            "approval_policy": str(tmp_path / "policy.toml"),
            "drain_s": 3,
            "http_host": LOOPBACK,
            "http_port": port,
            **further_settings,
        }
    )
    async with connect_redis(redis_url) as client, service_running("tool-gateway", run, settings) as runtime:
        yield Desk(pool, client, tmp_path, f"http://{LOOPBACK}:{port}", runtime)
