"""Which events count for a state, by the definition: the state after a rollback to t is the state at t."""

from hypothesis import given
from hypothesis import strategies as st

from flotilla.eventstore.path import SeqRange, effective_seq_ranges, last_common_seq
from tests.support.properties import patient


def by_definition(seq: int, rollbacks: dict[int, int]) -> list[int]:
    """The recursion itself, one event at a time."""
    if seq == 0:
        return []
    if seq in rollbacks:
        return by_definition(rollbacks[seq], rollbacks)
    return [*by_definition(seq - 1, rollbacks), seq]


@st.composite
def logs(draw: st.DrawFn) -> tuple[int, dict[int, int]]:
    """A length, and rollbacks each to an earlier seq."""
    length = draw(st.integers(0, 40))
    at = draw(st.sets(st.integers(1, length), max_size=8)) if length else set()
    return length, {seq: draw(st.integers(0, seq - 1)) for seq in at}


def seqs_of(stretches: list[SeqRange]) -> list[int]:
    return [seq for s in stretches for seq in range(s.after_seq + 1, s.upto_seq + 1)]


@patient
@given(logs())
def test_the_path_is_that_of_the_recursive_definition(log: tuple[int, dict[int, int]]) -> None:
    length, rollbacks = log
    for seq in range(length + 1):
        assert seqs_of(effective_seq_ranges(seq, rollbacks)) == by_definition(seq, rollbacks)


@patient
@given(logs(), st.data())
def test_two_paths_are_the_same_exactly_up_to_their_common_seq(
    log: tuple[int, dict[int, int]], data: st.DataObject
) -> None:
    length, rollbacks = log
    one, other = (effective_seq_ranges(data.draw(st.integers(0, length)), rollbacks) for _ in range(2))
    common = last_common_seq(one, other)
    shared = [a for a, b in zip(seqs_of(one), seqs_of(other), strict=False) if a == b]
    assert [seq for seq in seqs_of(one) if seq <= common] == [seq for seq in seqs_of(other) if seq <= common]
    assert common == max(shared, default=0) or not [s for s in shared if s > common]
