"""`run.ask_person` in skipped time: people are functions, or nobody."""

from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.questions import answer_event_name
from flotilla.contracts.requests import RUN_EVENT_SIGNAL, OutsideEvent
from flotilla.testing.workflows import replay, try_workflow
from tests.integration.workflows import steps


def north(asked: dict[str, Any]) -> steps.Choice:
    assert asked["question"] == "Which supplier?"
    assert (asked["schema"]["required"], asked["schema"]["additionalProperties"]) == (["supplier"], False)
    return steps.Choice("North", 5)


async def test_a_person_answers_as_the_type_says() -> None:
    trial = await try_workflow(steps.Asker, steps.Amount(count=1), people={"ask_person": north})
    assert trial.output == {"texts": ["North", "5"]}
    [question] = trial.people_asked
    assert (question.question, question.roles) == ("Which supplier?", ["approver"])
    await replay(steps.Asker, trial.history)


async def test_nobody_in_time_is_a_typed_outcome() -> None:
    trial = await try_workflow(steps.Asker, steps.Amount(count=30))
    assert trial.output == {"texts": ["ask_person", "expired"]}


async def test_an_answer_of_another_type_ends_the_run_with_the_step() -> None:
    trial = await try_workflow(steps.Asker, steps.Amount(count=1), people={"ask_person": lambda _: {"supplier": 7}})
    assert trial.error is not None
    assert (trial.status, trial.error.where) == ("error", "ask_person")


@pytest.mark.parametrize("odd", [("Who?\0", "who"), ("Who?", "who pays?"), ("Who?", "w" * 128), ("", "a b")])
async def test_what_nobody_could_see_is_an_error_at_once(odd: tuple[str, str]) -> None:
    trial = await try_workflow(steps.Odd, steps.Texts(list(odd)), children=[steps.Child])
    assert trial.error is not None
    assert (trial.error.type, trial.people_asked) == ("Invalid", [])


async def test_one_role_may_be_named_alone() -> None:
    trial = await try_workflow(steps.Odd, steps.Texts(["Who?", "who"]))
    assert trial.people_asked[0].roles == ["approver"]


async def test_a_signal_answers_nothing() -> None:
    async def forge(handle: WorkflowHandle[Any, Any]) -> None:
        run_id = handle.id.removeprefix("run-")
        for n in range(3):
            data: dict[str, JsonValue] = {"answer": {"supplier": "mine"}, "supplier": "mine"}
            event = OutsideEvent(event_id=f"e{n}", name=answer_event_name(f"{run_id}.ask_person"), data=data)
            await handle.signal(RUN_EVENT_SIGNAL, event)

    trial = await try_workflow(steps.Asker, steps.Amount(count=1), meanwhile=forge)
    assert trial.output == {"texts": ["ask_person", "expired"]}


@pytest.mark.parametrize("times", [1, 3])
async def test_who_asks_again_after_continuing_as_new_waits_for_the_same_answer(times: int) -> None:
    asked = 0

    def echo(data: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return data

    def at_last(question: dict[str, Any]) -> steps.Choice | None:
        return north(question) if asked == 3 - times else None

    trial = await try_workflow(
        steps.Patient, steps.Amount(count=times), agents={"echo": echo}, people={"ask_person": at_last}
    )
    assert trial.output == {"texts": ["North"]}
    assert len({question.question_id for question in trial.people_asked}) == 1
    assert asked == 3 - times
