"""Calls of MCP tools while the agent holds its task: the tool gateway answers over HTTP, once the answer is stored.

Nothing depends on this way. Where the tool gateway is away, is slow, needs people, or refuses, the task asks the worker
for the same call, under the same id, as it does without this way: what was begun here is found there.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flotilla.agent.mcp_tools import McpToolFailed
from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import ConfigurationError, Undecodable
from flotilla.contracts.mcp import CALL_REFUSED, CALLS_PATH, McpCallAtOnce, McpResult
from flotilla.contracts.tasks import AgentTask, McpCallNeeded
from flotilla.telemetry import current_traceparent

if TYPE_CHECKING:
    from httpx2 import AsyncClient

_CONNECT_TIMEOUT_S = 1.0
_ANSWER_TIMEOUT_S = 15.0
"""A call that takes longer goes on, and the task pauses until it has ended, so that it holds nothing meanwhile."""
_STATUS_OK = 200
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _CallRefusal:
    reason: str


class ToolGatewayClient:
    """The tool gateway at one address."""

    def __init__(self, http: "AsyncClient") -> None:
        self._http = http

    async def call_at_once(self, task: AgentTask, wanted: McpCallNeeded) -> McpResult | None:
        """Return what the tool answered; None where the call is not made, or has no answer yet.

        Raises:
            McpToolFailed: the tool gateway refuses the call for good.
        """
        from httpx2 import HTTPError

        asked = McpCallAtOnce(
            tenant_id=task.tenant_id,
            task_id=task.task_id,
            attempt=task.attempt,
            secret=task.secret or "",
            call_id=wanted.call_id,
            tool=wanted.tool,
        )
        headers = {"authorization": asked.authorization(), "content-type": "application/json"}
        if traceparent := current_traceparent():
            headers["traceparent"] = traceparent
        try:
            response = await self._http.post(CALLS_PATH, content=to_json(wanted.arguments), headers=headers)
            if response.status_code == _STATUS_OK:
                return from_json(response.content, McpResult)
            if response.status_code == CALL_REFUSED:
                raise McpToolFailed(f"tool {wanted.tool}: {from_json(response.content, _CallRefusal).reason}")
            reason = f"{response.status_code}: {response.text[:300]}"
        except (HTTPError, Undecodable) as error:
            reason = f"{type(error).__name__}: {error}"
        log.info("mcp_call_left_to_worker", call_id=wanted.call_id, tool=wanted.tool, reason=reason)
        return None


@asynccontextmanager
async def open_tool_gateway_client(url: str) -> AsyncIterator[ToolGatewayClient]:
    """Open the connections to the tool gateway at `url`.

    Raises:
        ConfigurationError: the HTTP client is not installed.
    """
    try:
        import httpx2
    except ImportError as error:
        raise ConfigurationError(
            f"FLOTILLA_TOOL_GATEWAY_URL needs the package {error.name}: install flotilla-fleet[llm]"
        ) from error
    timeout = httpx2.Timeout(_ANSWER_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    async with httpx2.AsyncClient(base_url=url, timeout=timeout, trust_env=False) as http:
        yield ToolGatewayClient(http)
