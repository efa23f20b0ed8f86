"""Which events of a log make up the state at a point, when rollbacks are among them.

The state after a rollback to t is the state at t, by definition; t may itself lie behind another rollback. So the
events that count for the state at k are found by walking back from k: down to the nearest rollback, from there on
from its target, and so on. Their sequence numbers ascend.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeqRange:
    """The events with `after_seq` < seq ≤ `upto_seq`."""

    after_seq: int
    upto_seq: int


def effective_seq_ranges(seq: int, rollbacks: Mapping[int, int]) -> list[SeqRange]:
    """The stretches, oldest first, whose events make up the state at `seq`.

    `rollbacks` maps the seq of each rollback to its target, which is less than it.
    """
    points = sorted(rollbacks)
    stretches: list[SeqRange] = []
    while seq > 0:
        index = bisect_right(points, seq)
        rollback = points[index - 1] if index else 0
        if rollback < seq:
            stretches.append(SeqRange(rollback, seq))
        seq = rollbacks[rollback] if rollback else 0
    stretches.reverse()
    return stretches


def last_common_seq(one: list[SeqRange], other: list[SeqRange]) -> int:
    """The last seq up to which two paths are the same."""
    common = 0
    for a, b in zip(one, other, strict=False):
        if a.after_seq != b.after_seq:
            return common
        common = min(a.upto_seq, b.upto_seq)
        if a.upto_seq != b.upto_seq:
            return common
    return common
