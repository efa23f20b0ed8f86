"""What the agents of these tests answer."""

from typing import Any

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage, ResearchResult, WriteResult
from tests.support.foreign_agent import Task

SOURCE = Source(
    document_id="d1", title="Handbook", uri="file:handbook.md", passage_id="d1#1", start=0, end=40, score=2.5, quote="…"
)


async def research(task: Task) -> dict[str, Any]:
    passage = Passage(text="The harbour master inspects every mooring line.", source=SOURCE)
    result = ResearchResult(query=task["input"]["query"], passages=[passage])
    return {"status": "done", "result": to_builtins(result)}


async def write(task: Task) -> dict[str, Any]:
    result = WriteResult(
        answer=f"The harbour master. ({task['task_id']})",
        sources=[SOURCE],
        confidence=0.8,
        confidence_basis="retrieval_scores",
        model="test",
    )
    return {"status": "done", "result": to_builtins(result)}


def failed(kind: str, message: str, *, retryable: bool) -> dict[str, Any]:
    return {"status": "failed", "failure": {"type": kind, "message": message, "retryable": retryable}}
