"""Whether what is used stays flat: the last third compared with the second.

The nodes of a replicated server count together, since a failover moves the work from one to the other.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.ha.soak.usage import Usage

# Grown by more than a share and an amount: caches fill up for a while, and the log of events is meant to grow.
_SHARE = 1.25
_AMOUNT = {"memory_mb": 40.0, "connections": 15.0, "handles": 30.0}
_NODE = re.compile(r"-[0-9]+$")


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
    """Medians of the second and the last third, for each service or server and measure."""
    end = max((row.at_s for row in rows), default=0.0)
    for measure in ("memory_mb", "connections", "handles", "disk_mb"):
        for name, by_time in sorted(_together(rows, measure).items()):
            second = [used for at_s, used in by_time.items() if end / 3 <= at_s < end * 2 / 3]
            last = [used for at_s, used in by_time.items() if at_s >= end * 2 / 3]
            if second and last:
                yield Trend(name, measure, median(second), median(last))


def _together(rows: Sequence[Usage], measure: str) -> dict[str, dict[float, float]]:
    """What a service, or all nodes of a server, used at each time."""
    found: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        found[_NODE.sub("", row.name)][row.at_s] += getattr(row, measure)
    return found
