"""What `Run` does, in skipped time, with agents and actions that are functions."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle

from flotilla.contracts.requests import RUN_EVENT_SIGNAL, OutsideEvent
from flotilla.testing import workflows as kit
from flotilla.testing.workflows import Trial, replay, try_workflow
from flotilla.workflows.calls import custom as call
from tests.integration.workflows import steps
from tests.support.waiting import eventually

Handle = WorkflowHandle[Any, Any]


def echo(data: dict[str, Any]) -> dict[str, Any]:
    if data["n"] == 2:
        raise LookupError("no second")
    return {"count": data["n"]}


def event(event_id: str, data: dict[str, Any], name: str = "paid") -> OutsideEvent:
    return OutsideEvent(event_id=event_id, name=name, data=data)


def sends(*events: OutsideEvent) -> Callable[[Handle], Awaitable[None]]:
    async def send(handle: Handle) -> None:
        for one in events:
            await handle.signal(RUN_EVENT_SIGNAL, one)

    return send


def steps_of(trial: Trial) -> list[Any]:
    return [note.data["details"]["step"] for note in trial.recorded if note.data.get("change") == "run_step_finished"]  # type: ignore[index, call-overload]


async def test_collect_puts_the_error_of_a_step_into_its_place() -> None:
    trial = await try_workflow(steps.Collect, steps.Amount(count=4), agents={"echo": echo})
    assert trial.output == {"texts": ["Amount(count=0)", "Amount(count=1)", "echo:3", "Amount(count=3)"]}
    assert sorted(steps_of(trial)) == ["echo", "echo:2", "echo:3", "echo:4"]


async def test_events_from_outside_count_once_in_order_also_before_the_wait() -> None:
    first, second = event("e1", {"count": 1}), event("e2", {"count": 2})
    trial = await try_workflow(
        steps.Waiter, steps.Amount(count=2), meanwhile=sends(first, first, event("e3", {}, "other"), second, first)
    )
    assert trial.output == {"texts": ["1", "2"]}


async def test_an_event_that_does_not_fit_is_recorded_and_the_wait_goes_on() -> None:
    trial = await try_workflow(
        steps.Waiter, steps.Amount(count=1), meanwhile=sends(event("e1", {"count": "many"}), event("e2", {"count": 2}))
    )
    assert trial.output == {"texts": ["2"]}
    assert [note.kind for note in trial.recorded] == ["error"]


async def test_an_event_that_never_comes_ends_the_run_as_timeout_after_30_days() -> None:
    trial = await try_workflow(steps.Waiter, steps.Amount(count=1))
    assert trial.error is not None
    assert (trial.status, trial.error.where) == ("timeout", "wait_for paid")


async def test_it_is_a_plain_workflow_with_signals_queries_and_patches() -> None:
    async def signal(handle: Handle) -> None:
        await handle.signal("add", "a")
        assert await handle.query("count") == 1
        await handle.signal("add", "b")

    trial = await try_workflow(steps.Signalled, steps.Amount(count=2), meanwhile=signal)
    assert trial.output == {"texts": ["a", "b"]}


async def test_models_go_in_and_out_as_they_are() -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def later(data: dict[str, Any]) -> steps.Model:
        model = steps.Model.model_validate(data)
        return steps.Model(at=model.at + timedelta(days=1), count=model.count + 1)

    trial = await try_workflow(steps.Modelled, steps.Model(at=at), agents={"later": later})
    assert trial.output == {"at": "2026-02-01T12:00:00Z", "count": 2}


@pytest.mark.parametrize(
    ("cls", "kind", "said"),
    [
        (steps.Broken, "KeyError", "7"),
        (steps.Clock, "RestrictedWorkflowAccessError", "datetime"),
        (steps.Forger, "Invalid", "action_approved"),
    ],
)
async def test_a_mistake_in_the_code_ends_the_run_with_its_error(cls: type, kind: str, said: str) -> None:
    trial = await try_workflow(cls, steps.Amount(count=7))
    assert trial.error is not None
    assert (trial.status, trial.error.type, trial.error.where) == ("error", kind, "workflow")
    assert said in trial.error.message


async def test_an_input_of_another_type_ends_the_run() -> None:
    trial = await try_workflow(steps.Broken, {"count": "seven"})
    assert trial.error is not None
    assert trial.error.type == "ValueError"
    assert "input of workflow broken" in trial.error.message


async def test_an_action_that_fails_is_a_typed_refusal() -> None:
    def pay(_args: dict[str, Any]) -> None:
        raise LookupError("no account")

    trial = await try_workflow(steps.Refused, steps.Amount(count=1), actions={"pay": pay})
    assert trial.output == {"texts": ["pay", "failed", "action pay: failed: LookupError: no account"]}
    assert [(one.action, one.args, one.requested_by) for one in trial.executed] == [("pay", {"cents": 5}, "tester")]


async def test_a_run_that_continues_as_new_counts_its_steps_on() -> None:
    trial = await try_workflow(steps.Long, steps.Amount(count=0), agents={"echo": lambda data: data})
    assert (trial.status, trial.output) == ("success", {"count": 3})
    assert steps_of(trial) == ["echo", "echo:2", "echo:3", "echo:4"]


async def test_an_event_counts_once_also_where_its_run_has_continued_as_new() -> None:
    first, second = event("e1", {"count": 1}), event("e2", {"count": 2})

    async def send_again(handle: Handle) -> None:
        await handle.signal(RUN_EVENT_SIGNAL, first)
        await eventually(lambda: _has_continued(handle), timeout_s=30)
        await handle.signal(RUN_EVENT_SIGNAL, first)
        await handle.signal(RUN_EVENT_SIGNAL, second)

    trial = await try_workflow(steps.Instalments, steps.Texts([]), meanwhile=send_again)
    assert trial.output == {"texts": ["1", "2"]}


async def test_an_event_that_nobody_waited_for_yet_is_kept_where_its_run_continues_as_new() -> None:
    both = sends(event("e1", {"count": 1}), event("e2", {"count": 2}))
    trial = await try_workflow(steps.Instalments, steps.Texts([]), meanwhile=both)
    assert trial.output == {"texts": ["1", "2"]}


async def _has_continued(handle: Handle) -> bool:
    return (await handle.describe()).run_id != handle.first_execution_run_id


async def test_a_run_of_thirty_days_does_each_days_work_once_and_its_history_stays_short() -> None:
    trial = await try_workflow(
        steps.MonthOfDays, steps.Month(), agents={"echo": lambda data: data}, actions={"pay": lambda data: data}
    )
    assert (trial.status, trial.error) == ("success", None)
    assert trial.output is not None
    assert (trial.output["day"], trial.output["expired"]) == (30, 60)
    days = list(range(30))
    assert [task.input["n"] for task in trial.asked] == days
    assert [one.args["day"] for one in trial.executed] == days
    assert [note.data["set"] for note in trial.recorded if "set" in note.data] == [{"day": day} for day in days]
    names = {one.action_id for one in trial.executed} | {one.question_id for one in trial.people_asked}
    assert len(names) == 60
    assert len(trial.history.events) < 1000  # of ten days: Temporal's limit is 51,200


async def test_a_changed_workflow_does_not_replay_what_it_did_before() -> None:
    trial = await try_workflow(steps.Long, steps.Amount(count=3), agents={"echo": lambda data: data})
    await replay(steps.Long, trial.history)
    trial = await try_workflow(steps.FanOut, steps.Amount(count=2), agents={"echo": lambda data: data})
    changed = trial.history.to_json().replace('"fan-out"', '"long"')
    with pytest.raises(workflow.NondeterminismError):
        await replay(steps.Long, type(trial.history).from_json(trial.history.workflow_id, changed))


async def test_a_run_that_is_cancelled_is_closed_as_cancelled() -> None:
    async def cancel(handle: Handle) -> None:
        await handle.cancel()

    trial = await try_workflow(steps.Waiter, steps.Amount(count=1), meanwhile=cancel)
    assert (trial.status, trial.error, trial.output) == ("cancelled", None, None)


async def test_a_run_that_is_cancelled_while_it_writes_ends_with_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    is_writing, is_cancelled = asyncio.Event(), asyncio.Event()
    record = kit._Stage.record  # the records of a trial, on a slow database

    @activity.defn(name=call.RECORD_EVENTS)
    async def slowly(self, records: call.RunEventRecords) -> None:  # type: ignore[no-untyped-def]  # no argument to Temporal
        is_writing.set()
        await is_cancelled.wait()
        await record(self, records)

    async def cancel(handle: Handle) -> None:
        await is_writing.wait()
        await handle.cancel()
        await eventually(lambda: _has_taken_the_cancellation(handle), timeout_s=30)
        is_cancelled.set()

    monkeypatch.setattr(kit._Stage, "record", slowly)
    trial = await try_workflow(steps.Talkative, steps.Amount(count=3), meanwhile=cancel)
    assert (trial.status, trial.output) == ("cancelled", None)
    assert [note.data["details"] for note in trial.recorded] == [{"text": "1"}]
    await replay(steps.Talkative, trial.history)


async def _has_taken_the_cancellation(handle: Handle) -> bool:
    """Whether the workflow's own code was called since."""
    kinds = [event.event_type async for event in handle.fetch_history_events()]
    requested = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
    return requested in kinds and EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in kinds[kinds.index(requested) :]
