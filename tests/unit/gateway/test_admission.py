"""An open stream asks again whether its caller may still read."""

from collections.abc import Awaitable, Callable

from flotilla.contracts.errors import Forbidden, RetryLater
from gateway.live.admission import StreamAccessCheck
from gateway.problems import Unauthenticated


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def answers(*outcomes: Exception | None) -> Callable[[], Awaitable[None]]:
    left = list(outcomes)

    async def check() -> None:
        if (outcome := left.pop(0)) is not None:
            raise outcome

    return check


async def test_rights_are_asked_for_again_when_a_check_is_due_and_not_before() -> None:
    clock = Clock()
    admission = StreamAccessCheck(answers(None, Unauthenticated("revoked")), every_s=5, monotonic=clock)
    assert await admission.may_read()
    clock.now = 5
    assert await admission.may_read()
    clock.now = 9
    assert await admission.may_read()
    clock.now = 10
    assert not await admission.may_read()


async def test_a_lost_role_ends_the_stream() -> None:
    admission = StreamAccessCheck(answers(Forbidden("lost")), every_s=0)
    assert not await admission.may_read()


async def test_nothing_is_sent_while_the_rights_are_unknown() -> None:
    admission = StreamAccessCheck(
        answers(RetryLater("the database is unavailable"), ConnectionError(), Forbidden("lost")), every_s=0
    )
    assert not await admission.may_read()
