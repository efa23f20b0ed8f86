"""Workflows of the tests of `Run`: each shows one thing."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel
from temporalio import workflow

from flotilla.workflows import ActionRefused, NotAnswered, Run, StepFailed, flotilla_workflow


@dataclass
class Amount:
    count: int


@dataclass
class Texts:
    texts: list[str]


class Model(BaseModel):
    at: datetime
    count: int = 1


@flotilla_workflow(name="fan-out", version="1")
class FanOut:
    """Ask as often as told, within a window."""

    async def run(self, run: Run, request: Amount) -> Amount:
        found = await run.gather(*(run.ask("echo", {"n": n}) for n in range(request.count)), at_once=50)
        return Amount(count=len({one.task_id for one in found}))


@flotilla_workflow(name="collect", version="1")
class Collect:
    """Collect what fails beside what does not."""

    async def run(self, run: Run, request: Amount) -> Texts:
        steps = (run.ask("echo", {"n": n}, returns=Amount, retries=0) for n in range(request.count))
        found = await run.gather(*steps, at_once=3, on_error="collect")
        return Texts([one.step if isinstance(one, StepFailed) else str(one) for one in found])


@flotilla_workflow(name="waiter", version="1")
class Waiter:
    """Wait for two payments, each within 30 days, and sleep between them."""

    async def run(self, run: Run, request: Amount) -> Texts:
        texts = []
        for _ in range(request.count):
            paid = await run.wait_for("paid", Amount, timeout=timedelta(days=30))
            texts.append(str(paid.count))
            await workflow.sleep(timedelta(days=1))
        return Texts(texts)


@flotilla_workflow(name="talkative", version="1")
class Talkative:
    """Show as many lines as told, and do nothing else."""

    async def run(self, run: Run, request: Amount) -> Amount:
        for n in range(request.count):
            await run.progress(str(n + 1))
        return request


@flotilla_workflow(name="signalled", version="1")
class Signalled:
    """A plain Temporal workflow, too: signals, queries, patches."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @workflow.signal
    def add(self, name: str) -> None:
        self.names.append(name)

    @workflow.query
    def count(self) -> int:
        return len(self.names)

    async def run(self, _run: Run, request: Amount) -> Texts:
        assert workflow.patched("counted")
        await workflow.wait_condition(lambda: len(self.names) == request.count)
        return Texts(self.names)


@flotilla_workflow(name="modelled", version="1")
class Modelled:
    """Pydantic models in and out."""

    async def run(self, run: Run, request: Model) -> Model:
        return await run.ask("later", request, returns=Model)


@flotilla_workflow(name="broken", version="1")
class Broken:
    """Code with a mistake."""

    async def run(self, _run: Run, request: Amount) -> Amount:
        return Amount(count={1: 1}[request.count])


@flotilla_workflow(name="clock", version="1")
class Clock:
    """Code that is not deterministic."""

    async def run(self, _run: Run, request: Amount) -> Amount:
        return Amount(count=datetime.now().year + request.count)  # noqa: DTZ005 - what the sandbox refuses


@flotilla_workflow(name="forger", version="1")
class Forger:
    """Code that would write an event of the services."""

    async def run(self, run: Run, _request: Amount) -> None:
        await run.record("state_change", {"change": "action_approved"})


@flotilla_workflow(name="refused", version="1")
class Refused:
    """An action that fails is a typed refusal."""

    async def run(self, run: Run, _request: Amount) -> Texts:
        try:
            await run.execute("pay", {"cents": 5})
        except ActionRefused as refused:
            return Texts([refused.step, refused.status, refused.message])
        return Texts([])


@flotilla_workflow(name="long", version="1")
class Long:
    """A loop that begins again with an empty history."""

    async def run(self, run: Run, request: Amount) -> Amount:
        await run.ask("echo", {"n": request.count})
        if request.count < 3:
            await run.continue_as_new(Amount(count=request.count + 1))
        return request


@flotilla_workflow(name="instalments", version="1")
class Instalments:
    """Take two payments, and begin again with an empty history after each."""

    async def run(self, run: Run, request: Texts) -> Texts:
        paid = await run.wait_for("paid", Amount, timeout=timedelta(days=30))
        texts = [*request.texts, str(paid.count)]
        if len(texts) < 2:
            await run.continue_as_new(Texts(texts))
        return Texts(texts)


@dataclass
class Choice:
    supplier: str
    cents: int = 0


@dataclass
class Month:
    """Where a month's work is."""

    day: int = 0
    began: datetime | None = None
    expired: int = 0


@flotilla_workflow(name="month", version="1")
class MonthOfDays:
    """Each day for a month: ask an agent, a person who does not answer, wait for what does not come, and pay."""

    async def run(self, run: Run, request: Month) -> Month:
        request.began = request.began or workflow.now()
        while request.day < 30:
            await run.ask("echo", {"n": request.day})
            try:
                await run.ask_person("Go on?", Choice, deadline=timedelta(hours=12))
            except NotAnswered:
                request.expired += 1
            try:
                await run.wait_for("paid", timeout=timedelta(hours=6))
            except StepFailed:
                request.expired += 1
            await run.execute("pay", {"day": request.day})
            await run.set(day=request.day)
            request.day += 1
            await workflow.sleep(timedelta(hours=6))
            if request.day % 10 == 0 and request.day < 30:
                await run.continue_as_new(request)
        assert workflow.now() - request.began >= timedelta(days=30)
        return request


@flotilla_workflow(name="asker", version="1")
class Asker:
    """Ask a person, for a day."""

    async def run(self, run: Run, request: Amount) -> Texts:
        try:
            chosen = await run.ask_person(
                "Which supplier?", Choice, roles=["approver"], deadline=timedelta(days=request.count)
            )
        except NotAnswered as missing:
            return Texts([missing.step, missing.status])
        return Texts([chosen.supplier, str(chosen.cents)])


@flotilla_workflow(name="odd", version="1")
class Odd:
    """Ask one role, or start a child, in a step that is named."""

    async def run(self, run: Run, request: Texts) -> Texts:
        question, step = request.texts
        if question:
            await run.ask_person(question, Choice, roles="approver", deadline=timedelta(days=1), step=step)
        else:
            await run.start_child("child", {"count": 0}, step=step)
        return Texts([])


@flotilla_workflow(name="patient", version="1")
class Patient:
    """Begin again with an empty history while a person is asked."""

    async def run(self, run: Run, request: Amount) -> Texts:
        asked = asyncio.create_task(run.ask_person("Which supplier?", Choice))
        if request.count < 3:
            await run.ask("echo", {"n": request.count})
            await run.continue_as_new(Amount(count=request.count + 1))
        return Texts([(await asked).supplier])


@flotilla_workflow(name="parent", version="1")
class Parent:
    """Start as many runs as told, and add up what they return."""

    async def run(self, run: Run, request: Amount) -> Texts:
        started = (run.start_child("child", {"count": n}, returns=Amount) for n in range(request.count))
        found = await run.gather(*started, on_error="collect")
        return Texts([one.step if isinstance(one, StepFailed) else str(one) for one in found])


@flotilla_workflow(name="child", version="1")
class Child:
    """Ask once; the third one fails, the fifth waits."""

    async def run(self, run: Run, request: Amount) -> Amount:
        if request.count == 4:
            await run.wait_for("never")
        found = await run.ask("echo", {"n": request.count}, returns=Amount, retries=0)
        return Amount(count=found.count * 10)


@flotilla_workflow(name="booking", version="1")
class Booking:
    """Book two things, or nothing."""

    async def run(self, run: Run, _request: Amount) -> Texts:
        done: list[str] = []
        try:
            async with run.saga() as saga:
                for name in ("flight", "hotel", "car"):
                    await saga.step(
                        name,
                        lambda name=name: run.ask(name, {}, retries=0),  # type: ignore[misc]
                        compensation=f"cancel_{name}",
                        undo=lambda name=name: run.execute(f"cancel_{name}"),  # type: ignore[misc]
                    )
        except StepFailed as failed:
            done = [failed.step, *(f"{step.name} {step.status}" for step in saga.steps)]
        return Texts(done)
