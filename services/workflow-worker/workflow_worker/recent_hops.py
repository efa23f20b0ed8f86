"""The hops that this process has published and will have to forward: their replies need no look at what was sent."""

from collections import OrderedDict

from flotilla.contracts.tasks import AgentTask

MOST = 500
MOST_BYTES = 32_768
"""Of one task as it was published: together they take 16 MB."""


class RecentHops:
    """Remembers published tasks that others follow in a slip. What is forgotten is looked up in the database."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[tuple[str, str, int], AgentTask] = OrderedDict()

    def note(self, task: AgentTask, size_bytes: int) -> None:
        """Remember a task about to be published, if others follow it."""
        if not task.slip or size_bytes > MOST_BYTES:
            return
        self._tasks[task.tenant_id, task.task_id, task.attempt] = task
        if len(self._tasks) > MOST:
            self._tasks.popitem(last=False)

    def take(self, tenant_id: str, task_id: str, attempt: int) -> AgentTask | None:
        """Return the task as it was published, and forget it; None where it is not known."""
        return self._tasks.pop((tenant_id, task_id, attempt), None)
