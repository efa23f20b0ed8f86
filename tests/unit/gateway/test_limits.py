import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.errors import ConfigurationError, Invalid
from gateway.guard import guarded_router
from gateway.limits import EventStreamSlots, RequestRateLimiter, check_json_complexity
from gateway.problems import TooMany
from tests.support.work import assert_linear

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=40,
)


MANY = 1_000_000


def count_of(value: object) -> int:
    """The values in `value`, itself included; an empty list or object counts as one that holds another."""
    if isinstance(value, dict | list):
        members = list(value.values()) if isinstance(value, dict) else value
        return 1 + max(1, sum(map(count_of, members)))
    return 1


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON)
def test_nesting_is_refused_exactly_beyond_the_limit(value: object) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    depth = depth_of(value)
    check_json_complexity(body, depth, MANY)
    if depth > 0:
        with pytest.raises(Invalid, match="nested deeper"):
            check_json_complexity(body, depth - 1, MANY)


@given(JSON)
def test_values_are_counted_to_within_the_empty_ones(value: object) -> None:
    body, count = json.dumps(value, ensure_ascii=False).encode(), count_of(value)
    check_json_complexity(body, 100, count)
    if count > 2:
        with pytest.raises(Invalid, match="more than"):
            check_json_complexity(body, 100, (count - 1) // 2)


def test_commas_in_strings_do_not_count() -> None:
    check_json_complexity(json.dumps({"a": ",[{" * 10_000}).encode(), 64, 100)


def test_brackets_in_strings_do_not_count() -> None:
    check_json_complexity(json.dumps({"a": "[" * 1000 + '\\"' + "{" * 1000}).encode(), 1, MANY)


def test_a_body_of_brackets_is_refused_without_parsing() -> None:
    with pytest.raises(Invalid):
        check_json_complexity(b"[" * 1_000_000, 64, 10_000_000)


@pytest.mark.parametrize(
    "repeated",
    [b'\\"', b"\\", b'"', b'""', b'"\\', b"[]", b"]", b"[", b'["', b'{"":"', b'"\\u0022"[', b'\\\\"', b"\xff"],
)
@pytest.mark.parametrize("opening", [b'"', b""])
def test_checking_the_nesting_takes_time_in_proportion_to_the_body(repeated: bytes, opening: bytes) -> None:
    assert_linear(
        lambda body: check_json_complexity(body, 64, 10**9),
        lambda n: b"[]" * 65 + opening + repeated * (n // len(repeated)),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_tenant_over_its_rate_learns_when_to_come_back_and_others_are_not() -> None:
    clock = Clock()
    rate = RequestRateLimiter(2.0, 3, monotonic=clock)
    for _ in range(3):
        rate.take("acme")
    with pytest.raises(TooMany) as refused:
        rate.take("acme")
    assert refused.value.headers is not None
    assert refused.value.headers["Retry-After"] == "1"
    rate.take("globex")
    clock.now += 0.5
    rate.take("acme")
    with pytest.raises(TooMany):
        rate.take("acme")
    clock.now += 3600
    for _ in range(3):
        rate.take("acme")
    with pytest.raises(TooMany):
        rate.take("acme")


def test_stream_slots_are_given_back() -> None:
    slots = EventStreamSlots(total=2, per_tenant=1)
    with slots.hold("acme"):
        with pytest.raises(TooMany):
            slots.check_slot_free("acme")
        slots.check_slot_free("globex")
        with slots.hold("globex"), pytest.raises(TooMany):
            slots.check_slot_free("initech")
    slots.check_slot_free("acme")


def test_a_route_that_does_not_say_who_may_call_it_cannot_be_made() -> None:
    async def endpoint() -> None:
        """Forgot to say."""

    with pytest.raises(ConfigurationError, match="/v1/open does not say"):
        guarded_router("x").get("/v1/open")(endpoint)
