"""Which call of which task: the name under which its answer is stored and its tokens are counted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCallKey:
    """One of a task's requests. Together with the request itself it names the answer."""

    tenant_id: str
    task_id: str
    call_index: int
    """Which of the task's equal requests this is, from 0; the same in every try."""
    session_id: str
    agent: str
    run_id: str | None = None
