"""Which call of which task: the name under which its answer is stored and its tokens are counted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """`call_index` counts from 0 within the task, the same in every try."""

    tenant_id: str
    task_id: str
    call_index: int
    session_id: str
    agent: str
    run_id: str | None = None
