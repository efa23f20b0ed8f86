"""Whether what a process uses is flat: its last third compared with its second."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.ha.soak.usage import Usage

# Grown by more than a share and an amount: caches fill up for a while, and the log of events is meant to grow.
_SHARE = 1.25
_AMOUNT = {"memory_mb": 40.0, "connections": 15.0, "handles": 30.0}


@dataclass(frozen=True)
class Trend:
    """One measure of one process."""

    name: str
    measure: str
    earlier: float
    later: float

    @property
    def grew(self) -> bool:
        """Beyond what is taken for flat. Disk is only reported: history is kept."""
        amount = _AMOUNT.get(self.measure)
        return amount is not None and self.later > self.earlier * _SHARE and self.later > self.earlier + amount

    def line(self) -> str:
        """For the summary."""
        mark = " GREW" if self.grew else ""
        return f"| {self.name} | {self.measure} | {self.earlier:.1f} | {self.later:.1f} |{mark}"


def trends(rows: Sequence[Usage]) -> Iterator[Trend]:
    """Medians of the second and the last third, for each process and measure."""
    end = max((row.at_s for row in rows), default=0.0)
    for name in sorted({row.name for row in rows}):
        own = [row for row in rows if row.name == name]
        second = [row for row in own if end / 3 <= row.at_s < end * 2 / 3]
        last = [row for row in own if row.at_s >= end * 2 / 3]
        if second and last:
            for measure in ("memory_mb", "connections", "handles", "disk_mb"):
                before, after = ([getattr(row, measure) for row in part] for part in (second, last))
                yield Trend(name, measure, median(before), median(after))
