"""`run.start_child` and `run.saga`, in skipped time."""

from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle

from flotilla.contracts.requests import RUN_EVENT_SIGNAL, OutsideEvent
from flotilla.testing.workflows import Does, Trial, replay, try_workflow
from tests.integration.workflows import steps
from tests.support.waiting import eventually

ENDED = ("EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED", "EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED")


def echo(data: dict[str, Any]) -> dict[str, Any]:
    if data["n"] == 2:
        raise LookupError("no second")
    return {"count": data["n"]}


def changes(trial: Trial, change: str) -> list[dict[str, Any]]:
    return [note.data["details"] for note in trial.recorded if note.data.get("change") == change]  # type: ignore[misc]


async def test_children_return_what_they_return_and_fail_as_steps() -> None:
    trial = await try_workflow(steps.Parent, steps.Amount(count=4), agents={"echo": echo}, children=[steps.Child])
    assert trial.output == {"texts": ["Amount(count=0)", "Amount(count=10)", "child:3", "Amount(count=30)"]}
    finished = {one["step"]: one["status"] for one in changes(trial, "run_child_finished")}
    assert finished == {"child": "done", "child:2": "done", "child:3": "failed", "child:4": "done"}
    await replay(steps.Parent, trial.history)


async def test_a_cancelled_run_ends_its_children_first() -> None:
    async def cancel(handle: WorkflowHandle[Any, Any]) -> None:
        async def one_is_left() -> bool:
            events = (await handle.fetch_history()).events
            ended = [one for one in events if EventType.Name(one.event_type).startswith(ENDED)]
            return len(ended) == 4

        await eventually(one_is_left, timeout_s=20)
        await handle.cancel()

    trial = await try_workflow(
        steps.Parent, steps.Amount(count=5), agents={"echo": echo}, children=[steps.Child], meanwhile=cancel
    )
    assert trial.status == "cancelled"
    events = [EventType.Name(one.event_type) for one in trial.history.events]
    assert "EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED" in events
    assert events[-1] == "EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED"


def fails(_: dict[str, Any]) -> None:
    raise LookupError("none left")


async def test_a_step_that_fails_undoes_those_before_it_in_reverse() -> None:
    undone: list[str] = []
    agents: dict[str, Does] = {"flight": dict, "hotel": fails, "car": dict}
    actions: dict[str, Does] = {
        "cancel_flight": lambda _: undone.append("flight"),
        "cancel_hotel": lambda _: undone.append("hotel"),
    }
    trial = await try_workflow(steps.Booking, steps.Amount(count=1), agents=agents, actions=actions)
    assert trial.output == {"texts": ["hotel", "flight compensated", "hotel compensated"]}
    assert undone == ["hotel", "flight"]
    assert [(one["name"], one["status"]) for one in changes(trial, "run_saga_step")] == [
        ("flight", "done"),
        ("hotel", "failed"),
        ("hotel", "compensated"),
        ("flight", "compensated"),
    ]
    await replay(steps.Booking, trial.history)


async def test_what_can_t_be_undone_waits_for_an_operators_verb() -> None:
    tries: list[str] = []

    def undo(_: dict[str, Any]) -> None:
        tries.append("hotel")
        if len(tries) < 3:
            raise LookupError("the hotel does not answer")

    async def operate(handle: WorkflowHandle[Any, Any]) -> None:
        for n, (step, verb) in enumerate((("hotel", "retry"), ("nowhere", "skip"), ("hotel", "retry"))):
            await _undone(handle, min(n + 1, 2))
            event = OutsideEvent(event_id=f"v{n}", name="saga", data={"step": step, "verb": verb, "reason": "called"})
            await handle.signal(RUN_EVENT_SIGNAL, event)

    agents: dict[str, Does] = {"flight": dict, "hotel": fails}
    actions: dict[str, Does] = {"cancel_hotel": undo, "cancel_flight": lambda _: None}
    trial = await try_workflow(steps.Booking, steps.Amount(count=1), agents=agents, actions=actions, meanwhile=operate)
    assert trial.output == {"texts": ["hotel", "flight compensated", "hotel compensated"]}
    assert len(tries) == 3


async def _undone(handle: WorkflowHandle[Any, Any], times: int) -> None:
    """Wait until the workflow has seen so many tries to undo the step."""

    async def seen() -> bool:
        events = (await handle.fetch_history()).events
        ended = [one for one in events if one.HasField("child_workflow_execution_completed_event_attributes")]
        return len(ended) >= times

    await eventually(seen, timeout_s=20)
