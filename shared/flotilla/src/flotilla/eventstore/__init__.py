"""The log of each session: append, replay, state at any point, diff, fork, rollback."""

from flotilla.eventstore.diff import StateDiff
from flotilla.eventstore.log import LineageSegment, Page
from flotilla.eventstore.sessions import Session
from flotilla.eventstore.state import SessionState, fold, state_json, state_json_blocks
from flotilla.eventstore.store import AgentEventStore

__all__ = [
    "AgentEventStore",
    "LineageSegment",
    "Page",
    "Session",
    "SessionState",
    "StateDiff",
    "fold",
    "state_json",
    "state_json_blocks",
]
