"""The examples of a strategy as a list, for tests that give them all to one server at once."""

from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

T = TypeVar("T")


def collected(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """At least `count` examples, the same in each run."""
    found: list[T] = []

    @settings(max_examples=count, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found
