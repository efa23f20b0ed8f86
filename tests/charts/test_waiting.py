"""A pod that waits for a dependency is unready, and is not restarted for it."""

from flotilla.contracts.errors import RetryLater
from flotilla.runtime import Runtime


async def test_waiting_for_a_dependency_does_not_count_as_stuck() -> None:
    runtime = Runtime("waiting")
    asked = 0

    async def away() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            runtime.request_stop("test")
        raise RetryLater("Kafka does not answer")

    runtime.health.add_check("kafka", away)
    runtime.health.expect_progress("bus", within_s=0.05)

    assert not await runtime.wait_until_ready(retry_s=0.04)

    assert asked == 3
    assert runtime.health.stuck_loops() == []
