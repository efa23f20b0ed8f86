"""Lanes are shared out fairly, and completely."""

from hypothesis import given
from hypothesis import strategies as st

from outbox_relay.leases import fair_lane_count

relays = st.sets(st.text("abcdef0123", min_size=1, max_size=6), min_size=1, max_size=20)


@given(relays)
def test_shares_add_up_to_all_lanes_and_differ_by_one_at_most(names: set[str]) -> None:
    shares = [fair_lane_count(name, sorted(names), 12) for name in names]
    assert sum(shares) == 12
    assert max(shares) - min(shares) <= 1


@given(relays, st.text("xyz", min_size=1, max_size=3))
def test_a_relay_that_is_not_listed_yet_counts_itself(names: set[str], newcomer: str) -> None:
    assert fair_lane_count(newcomer, sorted(names), 12) == fair_lane_count(newcomer, sorted({*names, newcomer}), 12)
