"""A package whose workflows ask people: tests install it from a folder outside the repository."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from flotilla.workflows import NotAnswered, Run, flotilla_workflow


@dataclass
class Need:
    roles: list[str]
    seconds: float = 3600


@dataclass
class Choice:
    supplier: str
    cents: int = 0


@dataclass
class Chosen:
    supplier: str
    how: str


@flotilla_workflow(name="choose", version="1")
class Choose:
    """Ask who supplies it."""

    async def run(self, run: Run, request: Need) -> Chosen:
        try:
            choice = await run.ask_person(
                "Which supplier?", Choice, roles=request.roles, deadline=timedelta(seconds=request.seconds)
            )
        except NotAnswered as missing:
            return Chosen("", missing.status)
        return Chosen(choice.supplier, "answered")


@dataclass
class Passed:
    session: str = ""
    depth: int = 1


@dataclass
class Deep:
    depth: int


@flotilla_workflow(name="pass-on", version="1")
class PassOn:
    """Start itself again, so deep, the first time in the session that is named."""

    async def run(self, run: Run, request: Passed) -> Deep:
        if request.depth == 0:
            return Deep(1)
        below = Passed(depth=request.depth - 1)
        found = await run.start_child("pass-on", below, returns=Deep, session=request.session or None)
        return Deep(found.depth + 1)


@flotilla_workflow(name="choose-later", version="1")
class ChooseLater:
    """Continue as new while people are asked."""

    async def run(self, run: Run, request: Need) -> Chosen:
        asked = asyncio.create_task(run.ask_person("Which supplier?", Choice))
        if request.roles:
            await run.wait_for("go")
            await run.continue_as_new(Need([]))
        return Chosen((await asked).supplier, "answered")
