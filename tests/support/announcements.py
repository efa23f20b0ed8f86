"""A team's own package, in one file: a workflow that asks two agents and publishes what they wrote, once people agree.

Tests copy it to a folder outside the repository and install it from there.
"""

from dataclasses import dataclass

from flotilla.actions import ActionContext
from flotilla.workflows import Run, flotilla_workflow


@dataclass
class Question:
    query: str


@dataclass
class Draft:
    answer: str


@dataclass
class Announcement:
    text: str
    published_as: str


@flotilla_workflow(name="announce", version="1")
class AnnounceWorkflow:
    """Announce the answer to a question."""

    async def run(self, run: Run, request: Question) -> Announcement:
        found = await run.ask("research", {"query": request.query})
        draft = await run.ask("write", {"query": request.query}, input_from=found, returns=Draft)
        published = await run.execute("publish_announcement", {"text": draft.answer})
        return Announcement(text=draft.answer, published_as=str(published))


@dataclass(frozen=True, kw_only=True)
class PublishAnnouncement:
    text: str


async def publish_announcement(context: ActionContext, args: PublishAnnouncement) -> str:
    return context.idempotency_key
