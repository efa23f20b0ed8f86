"""What the contract says of each Redis stream: its group, how it is kept short, how full it may get."""

from flotilla.contracts.names import (
    BRIDGE_GROUP,
    DEAD_LETTERS_STREAM,
    EVENTS_STREAM,
    REDRIVES_STREAM,
    REPLIES_STREAM,
    REPLY_STREAM_PREFIX,
    RUN_STREAM_PREFIX,
    agent_group,
    agent_of_stream,
)

ANNOUNCEMENTS_MAXLEN = 100_000
DEAD_LETTERS_MAXLEN = 10_000
LIVE_RUN_MAXLEN = 10_000
MAX_TASK_STREAM_ENTRIES = 200_000
"""Publishing to a task stream stops here; housekeeping trims what is handled every few seconds."""


def default_consumer_group(stream: str) -> str | None:
    """The group that the contract gives `stream`: `research-agents` for `flotilla.tasks.research`."""
    if stream in (REPLIES_STREAM, REDRIVES_STREAM) or stream.startswith(REPLY_STREAM_PREFIX):
        return BRIDGE_GROUP
    agent = agent_of_stream(stream)
    return None if agent is None else agent_group(agent)


def stream_maxlen(stream: str) -> int | None:
    """The length that XADD keeps `stream` at, where Redis is not the place that work waits in."""
    if stream == EVENTS_STREAM:
        return ANNOUNCEMENTS_MAXLEN
    if stream == DEAD_LETTERS_STREAM:
        return DEAD_LETTERS_MAXLEN
    return LIVE_RUN_MAXLEN if stream.startswith(RUN_STREAM_PREFIX) else None
