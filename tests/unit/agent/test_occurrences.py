"""Equal calls are numbered alike in every run of a task."""

import pytest

from flotilla.agent.occurrences import IdenticalCallCounter


def test_equal_calls_are_counted_and_others_do_not_matter() -> None:
    calls = IdenticalCallCounter()
    numbers = []
    for call in ("a", "b", "a", "a", "b"):
        with calls.reserve_call_number(call) as number:
            numbers.append(number)
    assert numbers == [0, 0, 1, 2, 1]


def test_the_number_of_a_failed_call_is_taken_by_the_next_one() -> None:
    calls = IdenticalCallCounter()
    with calls.reserve_call_number("a") as first, calls.reserve_call_number("a") as second:
        assert (first, second) == (0, 1)
    with pytest.raises(RuntimeError), calls.reserve_call_number("a") as third:
        raise RuntimeError
    with calls.reserve_call_number("a") as again:
        assert again == third == 2
