"""A package whose workflow takes fields of each kind, asks agents in parallel, then a person: for forms and steps."""

from dataclasses import dataclass, field
from typing import Literal

from flotilla.workflows import NotAnswered, Run, flotilla_workflow


@dataclass
class Survey:
    topic: str
    questions: list[str]
    depth: Literal["short", "long"] = "short"
    at_once: int = 3
    share: float = 0.5
    ask_somebody: bool = True
    note: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Verdict:
    """What somebody thinks of it."""

    is_good: bool
    why: Literal["complete", "readable", "neither"]
    score: int = 3
    remark: str = ""


@dataclass
class Surveyed:
    """The survey as it came in, and the verdict."""

    survey: Survey
    passages: int
    verdict: Verdict | None = None


@flotilla_workflow(name="survey", version="1")
class SurveyWorkflow:
    """Look several things up at once, and let somebody judge."""

    async def run(self, run: Run, request: Survey) -> Surveyed:
        asked = (run.ask("research", {"query": f"{request.topic} {one}"}) for one in request.questions)
        found = await run.gather(*asked, at_once=request.at_once)
        result = Surveyed(request, len(found))
        if request.ask_somebody:
            try:
                result.verdict = await run.ask_person(f"Is the survey of {request.topic} good?", Verdict)
            except NotAnswered:
                return result
        return result
