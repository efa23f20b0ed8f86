"""A team's own package, in one file: a workflow that plans, researches in parallel, writes, corrects and publishes.

Tests copy it to a folder outside the repository and install it from there.
"""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from flotilla.actions import ActionContext
from flotilla.workflows import Run, flotilla_workflow

FOLDER = "BRIEFS_FOLDER"
"""Names the folder that the action publishes in: a file for each execution."""


@dataclass
class BriefRequest:
    topic: str
    max_rounds: int = 3


@dataclass
class Plan:
    questions: list[str]


@dataclass
class Draft:
    text: str


@dataclass
class Verdict:
    is_good_enough: bool
    questions: list[str] = field(default_factory=list)


@dataclass
class Brief:
    text: str
    rounds: int


@flotilla_workflow(name="brief", version="1")
class BriefWorkflow:
    """Write a brief about a topic."""

    async def run(self, run: Run, request: BriefRequest) -> Brief:
        plan = await run.ask("planner", {"topic": request.topic}, returns=Plan)
        await run.set(questions=plan.questions)
        text, rounds = "", 0
        for _ in range(request.max_rounds):
            rounds += 1
            notes = await run.gather(*(run.ask("research", {"query": q}) for q in plan.questions), at_once=8)
            draft = await run.ask("write", {"topic": request.topic}, input_from=notes, returns=Draft)
            text = draft.text
            verdict = await run.ask("critic", {"draft": text}, returns=Verdict)
            if verdict.is_good_enough:
                break
            plan = Plan(verdict.questions)
        await run.progress("publishing")
        await run.execute("publish_brief", {"text": text})
        return Brief(text=text, rounds=rounds)


@dataclass(frozen=True, kw_only=True)
class PublishBrief:
    text: str


async def publish_brief(context: ActionContext, args: PublishBrief) -> str:
    path = Path(os.environ[FOLDER]) / context.idempotency_key
    await asyncio.to_thread(path.write_text, args.text)
    return "published"
