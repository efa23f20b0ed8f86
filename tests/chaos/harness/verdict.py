"""What must hold of the log once everything runs again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support.session_events import Logged, first_occurrences

Events = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Verdict:
    """Counts, and every session of which something is wrong."""

    committed: int
    records: int
    lost: Mapping[str, Events]
    invented: Mapping[str, Events]
    """In Kafka, but not committed: from a rolled-back transaction."""
    out_of_order: Sequence[str]
    with_gaps: Sequence[str]

    @property
    def duplicates(self) -> int:
        """Records beyond the first of each event; the projection drops them."""
        return self.records - self.committed + sum(map(len, self.lost.values())) - sum(map(len, self.invented.values()))

    def holds(self) -> bool:
        """Nothing lost, nothing invented, first occurrences contiguous and in order."""
        return not (self.lost or self.invented or self.out_of_order or self.with_gaps)


def judge(committed: Mapping[str, Events], log: Sequence[Logged]) -> Verdict:
    """Compares what was committed with what Kafka holds."""
    firsts = first_occurrences(log)
    keys = committed.keys() | firsts.keys()
    differences = {key: (set(committed.get(key, ())), set(firsts.get(key, ()))) for key in keys}
    return Verdict(
        committed=sum(map(len, committed.values())),
        records=len(log),
        lost={key: sorted(wanted - found) for key, (wanted, found) in differences.items() if wanted - found},
        invented={key: sorted(found - wanted) for key, (wanted, found) in differences.items() if found - wanted},
        out_of_order=[key for key, events in firsts.items() if events != sorted(events)],
        with_gaps=[
            key for key, events in committed.items() if [seq for seq, _ in events] != list(range(1, len(events) + 1))
        ],
    )
