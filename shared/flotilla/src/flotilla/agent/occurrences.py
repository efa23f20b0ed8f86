"""Tells the equal calls of one run of a task apart: the first, the second, and so on.

The number of a call that failed is free again, so that a run that repeats a failed call, and a later run in which it
does not fail, number their calls alike.
"""

import asyncio
from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import count


class IdenticalCallCounter:
    """Numbers from 0, per kind of call."""

    def __init__(self) -> None:
        self._taken: defaultdict[Hashable, set[int]] = defaultdict(set)

    @contextmanager
    def reserve_call_number(self, call: Hashable) -> Iterator[int]:
        """The lowest number that no equal call has; kept when the block ends well."""
        taken = self._taken[call]
        number = next(n for n in count() if n not in taken)
        taken.add(number)
        try:
            yield number
        except (Exception, asyncio.CancelledError):  # not a pause, after which the call is made under the same number
            taken.discard(number)
            raise
