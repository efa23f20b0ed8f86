"""What the tests of the bus's trap table share: one stream, its group, its tasks."""

from typing import Any

from flotilla.bus import DONE, Delivery, HandlerResult, Redis
from flotilla.bus.housekeeping import load_group_states
from flotilla.contracts import AgentEvent, AgentTask
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.names import task_stream
from flotilla.contracts.tasks import TASK_REQUESTED, ReplyAddress

STREAM = task_stream("adder")
GROUP = "adder-agents"
REPLY_TO = ReplyAddress(workflow_id="run-1", workflow_run_id="r", activity_id="t1")


def requested(task_id: str = "t1", tenant: str = "default") -> AgentEvent:
    """A task for the adder, as an event."""
    task = AgentTask(
        task_id=task_id, agent="adder", tenant_id=tenant, session_id="s1", input={"a": 1}, reply_to=REPLY_TO
    )
    return AgentEvent(type=TASK_REQUESTED, source="/tests", subject="s1", data=to_builtins(task), taskid=task_id)


async def acknowledge(_: Delivery) -> HandlerResult:
    """A handler that is done at once."""
    return DONE


async def raw(redis: Redis, entry_id: str | None = None) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the stream, or the one with this id, as Redis has them."""
    found: Any = await redis.xrange(STREAM, entry_id or "-", entry_id or "+")
    return list(found)


async def handled(redis: Redis, stream: str = STREAM) -> bool:
    """Nothing is left to read, and nothing pending."""
    states = await load_group_states(redis, stream)
    return bool(states) and states[0].lag == 0 and states[0].pending == 0
