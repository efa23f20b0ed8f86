"""From measured bytes to stores of any size, and from tenants to cells: arithmetic only, the same for the same seed."""

import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass

GB = 10**9
DAY_S = 86_400


@dataclass(frozen=True)
class Measured:
    """What was measured while `runs` questions were answered."""

    runs: int
    events: int
    stored_bytes: Mapping[str, int]
    """By store: how much it grew."""

    @property
    def events_per_run(self) -> float:
        """How many events a run records."""
        return self.events / self.runs

    def bytes_per_event(self, store: str) -> float:
        """How much a store grows with an event."""
        return self.stored_bytes[store] / self.events

    def bytes_at(self, store: str, events: float, replicas: int = 1) -> float:
        """How much a store holds after so many events, in all its copies."""
        return self.bytes_per_event(store) * events * replicas


@dataclass(frozen=True)
class Cell:
    """One fleet: what it carries at its busiest, and how full it may become before a tenant moves on."""

    runs_per_s: float
    fill: float = 0.7

    @property
    def room(self) -> float:
        """Runs per second that are planned for it."""
        return self.runs_per_s * self.fill


@dataclass(frozen=True)
class Plan:
    """Tenants in cells."""

    cells: int
    fullest: float
    """The fullest cell, of what a cell carries."""
    moves: int
    """Tenants that were moved while they grew."""
    largest: float
    """The largest tenant, of what a cell carries: over 1 it fits in none."""


def tenant_rates(tenants: int, runs_per_s: float, skew: float) -> list[float]:
    """Runs per second of each tenant, by Zipf's law: the n-th has `1 / n ** skew` of the first one's."""
    weights = [1 / number**skew for number in range(1, tenants + 1)]
    return [runs_per_s * weight / sum(weights) for weight in weights]


def plan(rates: list[float], cell: Cell, *, months: int = 0, growth: float = 0.0, seed: int = 1) -> Plan:
    """Put tenants into cells, the largest first, each into the emptiest, and let them grow.

    A tenant grows by up to twice `growth` in a month, so by that on average. While a cell is fuller than planned, the
    smallest tenant whose move is enough, else its largest, moves to the emptiest cell, or to a new one.
    """
    chance, moves = random.Random(seed), 0  # noqa: S311 - a simulation
    cells = _filled(sorted(rates, reverse=True), cell)
    for _ in range(months):
        cells = [[rate * (1 + 2 * growth * chance.random()) for rate in tenants] for tenants in cells]
        moves += _relieve(cells, cell)
    largest = max(max(tenants) for tenants in cells)
    return Plan(len(cells), max(map(sum, cells)) / cell.runs_per_s, moves, largest / cell.runs_per_s)


def _filled(rates: list[float], cell: Cell) -> list[list[float]]:
    cells: list[list[float]] = [[]]
    emptiest = [(0.0, 0)]
    for rate in rates:
        load, number = emptiest[0]
        if load and load + rate > cell.room:
            number, load = len(cells), 0.0
            cells.append([])
            heapq.heappush(emptiest, (rate, number))
        else:
            heapq.heapreplace(emptiest, (load + rate, number))
        cells[number].append(rate)
    return cells


def _relieve(cells: list[list[float]], cell: Cell) -> int:
    moves = 0
    for tenants in list(cells):
        while len(tenants) > 1 and (surplus := sum(tenants) - cell.room) > 0:
            moved = min((rate for rate in tenants if rate >= surplus), default=max(tenants))
            tenants.remove(moved)
            target = min(cells, key=sum)
            if target is tenants or sum(target) + moved > cell.room:
                target = []
                cells.append(target)
            target.append(moved)
            moves += 1
    return moves
