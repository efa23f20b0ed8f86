"""Frozen dataclasses for everything that crosses a process; importable anywhere, workflows included."""

from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.requests import ActionRequest, OrderRequest, RAGRequest, RAGResponse
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.contracts.tasks import AgentReply, AgentTask

__all__ = [
    "ActionRequest",
    "AgentEvent",
    "AgentReply",
    "AgentStateEvent",
    "AgentTask",
    "OrderRequest",
    "RAGRequest",
    "RAGResponse",
]
