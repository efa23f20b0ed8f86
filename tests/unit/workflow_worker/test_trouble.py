"""Why a step failed, in plain words."""

from typing import Any

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, TimeoutError, TimeoutType

from flotilla.workflows.calls.delegation import DELEGATE
from flotilla.workflows.delegation import failure_reason
from workflow_worker.activities.signatures.orders import RELEASE_FUNDS

NO_RETRY_LEFT = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"


def failed(activity_type: str, cause: BaseException) -> ActivityError:
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="worker",
        activity_type=activity_type,
        activity_id="1",
        retry_state=RetryState.TIMEOUT,
    )
    error.__cause__ = cause
    return error


def out_of_time(kind: TimeoutType, message: str = NO_RETRY_LEFT) -> Any:
    return TimeoutError(message, type=kind, last_heartbeat_details=[])


def test_only_an_agent_is_waited_for_an_answer() -> None:
    asked = failure_reason(failed(DELEGATE, out_of_time(TimeoutType.SCHEDULE_TO_CLOSE)))
    undone = failure_reason(failed(RELEASE_FUNDS, out_of_time(TimeoutType.SCHEDULE_TO_CLOSE)))
    assert asked.message == "no answer within 1800 s"
    assert undone.message == f"{NO_RETRY_LEFT} (schedule_to_close)"
    assert (asked.timed_out, undone.timed_out) == (True, True)


@pytest.mark.parametrize("kind", [DELEGATE, RELEASE_FUNDS])
def test_an_attempt_that_hung_reports_it(kind: str) -> None:
    trouble = failure_reason(failed(kind, out_of_time(TimeoutType.START_TO_CLOSE, "activity StartToClose timeout")))
    assert trouble.message == "activity StartToClose timeout (start_to_close)"


def test_a_failure_is_reported_by_its_own_type_and_message() -> None:
    trouble = failure_reason(failed(RELEASE_FUNDS, ApplicationError("the bank is closed", type="RaiseError")))
    assert (trouble.type, trouble.message, trouble.timed_out) == ("RaiseError", "the bank is closed", False)
