"""How long the keeper waits before it starts a process again."""

from flotilla_devstack.keeper import FIRST_DELAY_S, LONGEST_DELAY_S, STABLE_AFTER_S, RestartBackoff


def test_delay_doubles_up_to_its_limit() -> None:
    backoff = RestartBackoff(started_at=0.0)
    delays = [backoff.delay_after_exit(now=0.1) for _ in range(7)]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_delay_is_short_again_after_a_stable_run() -> None:
    backoff = RestartBackoff(started_at=0.0)
    for _ in range(5):
        backoff.delay_after_exit(now=0.1)
    backoff.started_at = 100.0
    assert backoff.delay_after_exit(now=100.0 + STABLE_AFTER_S) == FIRST_DELAY_S


def test_delay_stays_long_when_it_ends_just_before_it_counts_as_stable() -> None:
    backoff = RestartBackoff(started_at=0.0)
    backoff.delay_after_exit(now=0.1)
    backoff.started_at = 100.0
    assert backoff.delay_after_exit(now=100.0 + STABLE_AFTER_S - 0.01) == 2 * FIRST_DELAY_S
