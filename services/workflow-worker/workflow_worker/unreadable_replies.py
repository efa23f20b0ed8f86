"""What an agent sent that nobody can use ends the task that it belongs to: its caller has a reason, not a timeout.

An entry that names a task belongs to it, if the task is the agent's and open. One that names none (it is empty, or no
JSON object) belongs to the one task that the agent had by then and has not answered. While there are several, it waits
until the others are answered; if they are not, the deadline ends them, and the dead letter says what came.
"""

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from flotilla.bus.dead_letters import DeadLetters, TaskReference, UnhandledEntry
from flotilla.contracts.envelope import AgentEvent, from_builtins
from flotilla.contracts.errors import RetryLater, Undecodable
from flotilla.contracts.foreign import read_foreign_document
from flotilla.postgres import AWAY, Pool
from workflow_worker.bridge import entry_age_s

OTHER_TASKS_ANSWER_WITHIN_S = 60.0
MAX_CLOCK_DIFFERENCE = timedelta(seconds=1)
_REASONS_WITHOUT_TASK = ("undecodable", "oversize")
_SELECT_OPEN_TASKS = "SELECT tenant_id, task_id, attempt FROM flotilla.open_tasks_of($1, $2, 2)"

EndOpenTask: TypeAlias = Callable[[str, TaskReference, str], Awaitable[None]]
"""Ends a task of an agent with a reason, if it is open and that agent's."""


class UnreadableReplyHandler:
    """The dead letters of one agent's reply stream."""

    def __init__(self, agent: str, pool: Pool, letters: DeadLetters, end_task: EndOpenTask) -> None:
        self._agent = agent
        self._pool = pool
        self._letters = letters
        self._end_task = end_task

    async def keep(self, lost: UnhandledEntry) -> list[tuple[str, AgentEvent]]:
        """Keep the entry, and end its task.

        Raises:
            RetryLater: PostgreSQL is unavailable, or it is not known yet which task the entry belongs to.
        """
        task = find_named_task(lost.body)
        if task is None and lost.reason in _REASONS_WITHOUT_TASK:
            task = await self._find_only_open_task(lost)
        published = await self._letters.keep(lost)
        if task is not None:
            await self._end_task(self._agent, task, f"{lost.reason}: {lost.error}")
        return published

    async def _find_only_open_task(self, lost: UnhandledEntry) -> TaskReference | None:
        age = entry_age_s(lost.entry.entry_id)
        written = datetime.now(UTC) - timedelta(seconds=age if math.isfinite(age) else 0)
        try:
            rows = await self._pool.fetch(_SELECT_OPEN_TASKS, self._agent, written + MAX_CLOCK_DIFFERENCE)
        except AWAY as error:
            raise RetryLater(f"PostgreSQL does not answer: {error}") from error
        if len(rows) > 1 and age < OTHER_TASKS_ANSWER_WITHIN_S:
            raise RetryLater(f"entry {lost.entry.entry_id} may belong to several tasks of agent {self._agent}")
        return TaskReference(**dict(rows[0])) if len(rows) == 1 else None


def find_named_task(body: bytes) -> TaskReference | None:
    """The task that a reply is about, by its `data`, or by its own members where it has no envelope."""
    try:
        document = read_foreign_document(body)
    except Undecodable:
        return None
    for members in (document.get("data"), document):
        try:
            task = from_builtins(members, TaskReference)
        except Undecodable:
            continue
        if task.tenant_id is not None:
            return task
    return None
