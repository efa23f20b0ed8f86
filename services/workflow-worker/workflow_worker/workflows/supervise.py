"""`supervise`: a model chooses the run's next steps among agents and actions, until it answers or a budget ends it."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from temporalio import workflow
from temporalio.exceptions import FailureError

from flotilla.contracts.envelope import to_builtins, to_json
from flotilla.contracts.fixed_plan import default_plan
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.planning import (
    BUILT_IN_PLANNER,
    MAX_RESULT_CHARACTERS,
    MAX_STEPS_AT_ONCE,
    PLANNER_AGENT,
    ChosenStep,
    NextSteps,
    PlanRequest,
    Round,
    StepOutcome,
)
from flotilla.workflows import AgentResult, Run, flotilla_workflow
from flotilla.workflows.calls import supervision as call
from flotilla.workflows.delegation import ATTEMPT_TIMEOUT, UNLIMITED_RETRIES

MAX_ROUNDS_BYTES = 400_000
"""Of all rounds as JSON, as the planner gets them: a task holds 900,000 bytes, the tools included."""
LEFT_OUT_TEXT = "left out: too long ago"
MAX_SHOWN_ARGUMENTS_BYTES = 8_000
"""Of a step's arguments in the event `steps_chosen`: the event holds 16 of them."""
MAX_SUMMARY_CHARACTERS = 500
SupervisionEnd: TypeAlias = Literal["answered", "steps", "tokens", "money", "time"]


@dataclass
class SuperviseRequest:
    """A goal, what may be used for it, and what it may cost."""

    goal: Annotated[str, Field(min_length=1, max_length=32_000)]
    agents: list[str] = field(default_factory=list)
    """Agents that may be asked; empty: all that are registered."""
    actions: list[str] = field(default_factory=list)
    """Governed actions that may be proposed; policy decides about each."""
    max_rounds: Annotated[int, Field(ge=1, le=50)] = 10
    """How often may be chosen; then it has to answer."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of all models of the run, input and output."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """In the currency of the fleet's prices."""
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = 3600.0


@dataclass
class SuperviseResult:
    """The answer, and why it came to an end."""

    answer: str
    """Empty where a budget ended it before there was one."""
    ended: SupervisionEnd
    rounds: int
    planner: str
    """The model that chose; `built-in`: fixed rules did."""


class _BudgetSpent(Exception):
    """A budget is used up."""

    def __init__(self, ended: SupervisionEnd) -> None:
        super().__init__(ended)
        self.ended = ended


@flotilla_workflow(name="supervise", version="1")
class SuperviseWorkflow:
    """A model chooses the next steps among agents and actions until it answers, or a budget ends it."""

    async def run(self, run: Run, request: SuperviseRequest) -> SuperviseResult:
        """Drives the run to its end."""
        offer: call.Offer = await workflow.execute_local_activity(
            call.OFFER_TOOLS,
            call.OfferTools(agents=request.agents, actions=request.actions),
            result_type=call.Offer,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )
        return await _SupervisionRun(run, request, offer).run_within_time()


class _SupervisionRun:
    def __init__(self, run: Run, request: SuperviseRequest, offer: call.Offer) -> None:
        self._run = run
        self._request = request
        self._offer = offer
        self._offered = {tool.name: tool.kind for tool in offer.tools}
        self._rounds: list[Round] = []
        self._planner = BUILT_IN_PLANNER

    async def run_within_time(self) -> SuperviseResult:
        work = asyncio.create_task(self._run_rounds())
        answer = ""
        ended: SupervisionEnd = "time"
        try:
            # Not `wait_for`: a call that it cancels fails with an error of Temporal's, which would end the run.
            await workflow.wait([work], timeout=self._request.max_seconds)
            if work.done():
                answer, ended = await work
        except _BudgetSpent as spent:
            ended = spent.ended
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        return SuperviseResult(answer=answer, ended=ended, rounds=len(self._rounds), planner=self._planner)

    async def _run_rounds(self) -> tuple[str, SupervisionEnd]:
        for _ in range(self._request.max_rounds):
            chosen = await self._choose_next_steps()
            if not chosen.steps:
                return chosen.answer, "answered"
            steps = self._mark_refused_steps(chosen.steps)
            await self._record_chosen_steps(steps)
            outcomes = await self._run.gather(*map(self._run_step, steps))
            self._rounds.append(Round(chosen=steps, outcomes=outcomes))
        return (await self._choose_next_steps(must_answer=True)).answer, "steps"

    async def _choose_next_steps(self, *, must_answer: bool = False) -> NextSteps:
        await self._check_budgets()
        asked = PlanRequest(
            goal=self._request.goal, tools=self._offer.tools, rounds=self._rounds, must_answer=must_answer
        )
        if not self._offer.planner:
            return default_plan(asked)
        asked = replace(asked, rounds=_drop_oldest_results(self._rounds))
        chosen = await self._run.ask(PLANNER_AGENT, to_builtins(asked), returns=NextSteps)
        self._planner = chosen.planner
        return chosen

    async def _check_budgets(self) -> None:
        request = self._request
        if request.max_tokens is None and request.max_cost is None:
            return
        used = await self._run.usage()
        if request.max_tokens is not None and used.input_tokens + used.output_tokens >= request.max_tokens:
            raise _BudgetSpent("tokens")
        if request.max_cost is not None and used.cost >= request.max_cost:
            raise _BudgetSpent("money")

    def _mark_refused_steps(self, steps: list[ChosenStep]) -> list[ChosenStep]:
        """The steps, with the reason at those that are refused: what was not offered is not done."""
        offered = ", ".join(self._offered) or "nothing"
        judged = []
        for n, step in enumerate(steps):
            refused = step.refused
            if n >= MAX_STEPS_AT_ONCE:
                refused = f"at most {MAX_STEPS_AT_ONCE} steps at once"
            elif step.name not in self._offered:
                refused = f"{step.name} was not offered; offered: {offered}"
            judged.append(replace(step, refused=refused))
        return judged

    async def _record_chosen_steps(self, steps: list[ChosenStep]) -> None:
        details = {
            "round": len(self._rounds) + 1,
            "planner": self._planner,
            "offered": list(self._offered),
            "chosen": [
                {"name": one.name, "arguments": _arguments_for_event(one.arguments)} for one in steps if not one.refused
            ],
            "refused": [{"name": one.name, "reason": one.refused} for one in steps if one.refused],
        }
        await self._run.record("state_change", {"change": "steps_chosen", "details": details})

    async def _run_step(self, step: ChosenStep) -> StepOutcome:
        """What came of a step. A failure is an outcome, too: the planner may do better."""
        if step.refused:
            return StepOutcome(call_id=step.call_id, text=f"refused: {step.refused}")
        try:
            if self._offered[step.name] == "action":
                text = _to_json_text(
                    await self._run.execute(step.name, step.arguments, description=self._step_description())
                )
            else:
                text = _result_text(await self._run.ask(step.name, step.arguments))
        except FailureError as error:
            text = f"failed: {error}"
        return StepOutcome(call_id=step.call_id, text=text[:MAX_RESULT_CHARACTERS])

    def _step_description(self) -> str:
        return f"chosen by {self._planner} for: {self._request.goal}"[:MAX_RESULT_CHARACTERS]


def _drop_oldest_results(rounds: list[Round]) -> list[Round]:
    """The rounds, without what the oldest steps returned where all of it is too much for the planner's task."""
    kept = list(rounds)
    size = len(to_json(rounds))
    for place, done in enumerate(rounds):
        if size <= MAX_ROUNDS_BYTES:
            break
        kept[place] = replace(done, outcomes=[replace(one, text=LEFT_OUT_TEXT) for one in done.outcomes])
        size -= len(to_json(done)) - len(to_json(kept[place]))
    return kept


def _arguments_for_event(arguments: JsonObject) -> JsonObject:
    """The arguments as the session's event has them: of large ones the size and the beginning."""
    text = _to_json_text(arguments)
    if len(text.encode()) <= MAX_SHOWN_ARGUMENTS_BYTES:
        return arguments
    return {"size_bytes": len(text.encode()), "summary": text[:MAX_SUMMARY_CHARACTERS]}


def _result_text(result: AgentResult) -> str:
    if result.data is not None:
        return _to_json_text(result.data)
    return result.reference.summary if result.reference is not None else ""


def _to_json_text(value: object) -> str:
    return to_json(value).decode()
