"""The agent SDK: write one typed function, get a service."""

from flotilla.agent.agent import Agent
from flotilla.agent.context import TaskContext
from flotilla.agent.gates import ApprovalPending, ApprovalRefused
from flotilla.agent.service import run_agent, serve_agent
from flotilla.agent.session_keys import open_agent_pool
from flotilla.agent.settings import AgentSettings
from flotilla.agent.tool_runner import ToolNotCalled, ToolOutcomeUnknown, ToolResultNotStored
from flotilla.agent.tools import ToolFunction
from flotilla.agent.wrapped_errors import TaskCancelled
from flotilla.contracts.tools import IdempotencyKey, repeatable

__all__ = [
    "Agent",
    "AgentSettings",
    "ApprovalPending",
    "ApprovalRefused",
    "IdempotencyKey",
    "TaskCancelled",
    "TaskContext",
    "ToolFunction",
    "ToolNotCalled",
    "ToolOutcomeUnknown",
    "ToolResultNotStored",
    "open_agent_pool",
    "repeatable",
    "run_agent",
    "serve_agent",
]
