"""The hops that this process has published and will have to forward: their replies need no look at what was sent."""

from collections import OrderedDict

from flotilla.contracts.envelope import decode_event, from_builtins
from flotilla.contracts.tasks import AgentTask

MAX_RECENT_HOPS = 500
MAX_RECENT_HOP_BYTES = 32_768
"""Of one task as it was published: together they take 16 MB. Decoded, JSON may take 30 times as much."""


class RecentHopCache:
    """Remembers published tasks that others follow in a slip. What is forgotten is looked up in the database."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()

    def remember_hop(self, task: AgentTask, body: bytes) -> None:
        """Remember the event `body` of a task about to be published, if others follow it."""
        if not task.slip or len(body) > MAX_RECENT_HOP_BYTES:
            return
        self._bodies[task.tenant_id, task.task_id, task.attempt] = body
        if len(self._bodies) > MAX_RECENT_HOPS:
            self._bodies.popitem(last=False)

    def pop_hop(self, tenant_id: str, task_id: str, attempt: int) -> AgentTask | None:
        """Return the task as it was published, and forget it; None where it is not known."""
        body = self._bodies.pop((tenant_id, task_id, attempt), None)
        return None if body is None else from_builtins(decode_event(body).data, AgentTask)
