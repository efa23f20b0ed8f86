"""`supervise`, in skipped time: the planner is a function, or the built-in rules."""

import asyncio
from typing import Any

import pytest
from temporalio import activity

from flotilla.contracts.envelope import from_builtins, to_json
from flotilla.contracts.planning import ChosenStep, NextSteps, PlanRequest
from flotilla.contracts.tasks import MAX_TASK_INPUT_BYTES
from flotilla.testing import workflows as kit
from flotilla.testing.workflows import Does, Trial, replay, try_workflow
from flotilla.workflows import Usage
from flotilla.workflows.calls.custom import SUM_USAGE
from flotilla.workflows.calls.runs import RunKey
from workflow_worker.workflows.supervise import SuperviseWorkflow


def planner(*choices: list[tuple[str, dict[str, Any]]] | str) -> Does:
    """Chooses these in turn; a text is the answer, in which {0} is the first outcome of the last round."""
    left = list(choices)

    def plan(data: dict[str, Any]) -> NextSteps:
        request = from_builtins(data, PlanRequest)
        choice = "must answer" if request.must_answer else left.pop(0)
        if isinstance(choice, str):
            said = [one.text for one in request.rounds[-1].outcomes] if request.rounds else []
            return NextSteps(answer=choice.format(*said), planner="a-model")
        steps = [ChosenStep(call_id=f"c{n}", name=name, arguments=data) for n, (name, data) in enumerate(choice)]
        return NextSteps(steps=steps, planner="a-model")

    return plan


def search(data: dict[str, Any]) -> dict[str, Any]:
    if data["query"] == "nothing":
        raise LookupError("nothing found")
    return {"found": data["query"]}


def chosen(trial: Trial) -> list[dict[str, Any]]:
    """Each choice as the session has it."""
    return [note.data["details"] for note in trial.recorded if note.data.get("change") == "steps_chosen"]  # type: ignore[misc]


async def test_several_steps_at_once_then_an_answer_from_what_they_said() -> None:
    plan = planner([("search", {"query": "a"}), ("write", {"query": "b"})], "so: {0} {1}")
    agents = {"plan": plan, "search": search, "write": search}
    trial = await try_workflow(SuperviseWorkflow, {"goal": "harbours"}, agents=agents)
    answer = 'so: {"found":"a"} {"found":"b"}'
    assert trial.output == {"answer": answer, "ended": "answered", "rounds": 1, "planner": "a-model"}
    (choice,) = chosen(trial)
    assert (choice["round"], choice["offered"], choice["refused"]) == (1, ["search", "write"], [])
    assert choice["chosen"] == [
        {"name": "search", "arguments": {"query": "a"}},
        {"name": "write", "arguments": {"query": "b"}},
    ]
    await replay(SuperviseWorkflow, trial.history)


async def test_what_was_not_offered_is_refused_and_recorded_and_not_done() -> None:
    plan = planner([("write", {"query": "x"}), ("pay", {"cents": 5}), ("search", {"query": "a"})], "{0} {1} {2}")
    agents = {"plan": plan, "search": search, "write": search}
    trial = await try_workflow(
        SuperviseWorkflow, {"goal": "x", "agents": ["search"]}, agents=agents, actions={"pay": search}
    )
    assert trial.output is not None
    assert "write was not offered" in str(trial.output["answer"])
    assert [one["name"] for one in chosen(trial)[0]["refused"]] == ["write", "pay"]
    assert [task.agent for task in trial.asked if task.agent != "plan"] == ["search"]
    assert trial.executed == []


async def test_an_allowed_action_is_a_governed_action_and_the_planner_reads_failures() -> None:
    plan = planner([("pay", {"query": "p"}), ("search", {"query": "nothing"})], "{0} {1}")
    agents, actions = {"plan": plan, "search": search}, {"pay": search}
    trial = await try_workflow(SuperviseWorkflow, {"goal": "x", "actions": ["pay"]}, agents=agents, actions=actions)
    assert trial.output is not None
    assert trial.output["answer"] == '{"found":"p"} failed: LookupError: nothing found'
    (executed,) = trial.executed
    assert (executed.action, executed.args, executed.requested_by) == ("pay", {"query": "p"}, "tester")


@pytest.mark.parametrize(
    ("budget", "usage", "ended", "rounds"),
    [
        ({"max_rounds": 2}, Usage(), "steps", 2),
        ({"max_tokens": 100}, Usage(input_tokens=60, output_tokens=40), "tokens", 0),
        ({"max_cost": 0.5}, Usage(cost=0.5), "money", 0),
    ],
)
async def test_a_budget_ends_it(budget: dict[str, Any], usage: Usage, ended: str, rounds: int) -> None:
    plan = planner(*([("search", {"query": "more"})] for _ in range(9)))
    agents = {"plan": plan, "search": search}
    trial = await try_workflow(SuperviseWorkflow, {"goal": "x", **budget}, agents=agents, usage=usage)
    assert trial.output is not None
    assert (trial.output["ended"], trial.output["rounds"]) == (ended, rounds)
    assert (trial.output["answer"] == "must answer") == (ended == "steps")


async def test_its_time_ends_what_is_under_way() -> None:
    async def never(_: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    plan = planner([("pay", {"query": "p"})])
    trial = await try_workflow(
        SuperviseWorkflow,
        {"goal": "x", "actions": ["pay"], "max_seconds": 0.5},
        agents={"plan": plan},
        actions={"pay": never},
    )
    assert trial.output is not None
    assert (trial.output["ended"], trial.output["answer"], len(trial.executed)) == ("time", "", 1)


async def test_its_time_ends_it_while_the_other_budgets_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    @activity.defn(name=SUM_USAGE)
    async def never(_stage: object, _run: RunKey) -> Usage:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(kit._Stage, "usage", never)
    request = {"goal": "x", "max_tokens": 5, "max_seconds": 0.5}
    trial = await try_workflow(SuperviseWorkflow, request, agents={"plan": planner("too late")})
    assert (trial.status, trial.output and trial.output["ended"]) == ("success", "time")
    await replay(SuperviseWorkflow, trial.history)


async def test_what_the_planner_gets_stays_within_what_a_task_holds() -> None:
    def long(data: dict[str, Any]) -> dict[str, Any]:
        return {"found": data["query"] + "\u8a9e" * 5000}

    plan = planner(*([("search", {"query": f"{n}"})] * 16 for n in range(6)), "{0}")
    trial = await try_workflow(SuperviseWorkflow, {"goal": "x"}, agents={"plan": plan, "search": long})
    assert trial.output is not None
    assert str(trial.output["answer"]).startswith('{"found":"5\u8a9e')
    planned = [len(to_json(task.input)) for task in trial.asked if task.agent == "plan"]
    assert max(planned) < MAX_TASK_INPUT_BYTES / 2
    await replay(SuperviseWorkflow, trial.history)


async def test_large_arguments_fit_into_the_sessions_event() -> None:
    large = {"query": "q" * 30_000}
    plan = planner([("search", large)] * 20, "{0}")
    trial = await try_workflow(SuperviseWorkflow, {"goal": "x"}, agents={"plan": plan, "search": search})
    assert trial.status == "success"
    (choice,) = chosen(trial)
    assert (len(choice["chosen"]), len(choice["refused"])) == (16, 4)
    assert choice["chosen"][0]["arguments"]["size_bytes"] == len(to_json(large))


async def test_without_a_model_fixed_rules_ask_everybody_once_and_say_so() -> None:
    trial = await try_workflow(SuperviseWorkflow, {"goal": "moorings"}, agents={"search": search, "write": search})
    answer = 'search: {"found":"moorings"}\nwrite: {"found":"moorings"}'
    assert trial.output == {"answer": answer, "ended": "answered", "rounds": 1, "planner": "built-in"}
    assert chosen(trial)[0]["planner"] == "built-in"
