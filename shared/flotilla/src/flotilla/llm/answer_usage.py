"""Tokens of one answer: as the endpoint counts them, else estimated, so that a budget never counts nothing."""

import math
from collections.abc import Mapping
from typing import Any

from flotilla.contracts.tasks import TokenUsage

CHARACTERS_PER_TOKEN = 3
"""Fewer than English text has (about 4), so that an estimate is rather too high."""
_MOST = 10**9
_MAX_DIGITS = 12
_NAMES = {
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "completion_tokens": ("completion_tokens", "output_tokens"),
    "total_tokens": ("total_tokens",),
}
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")


class UsageCounter:
    """Takes every `usage` of a stream: one at the end, a running count, parts of one, floats, zeros."""

    def __init__(self) -> None:
        self._counted = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self._cached = 0

    def add_usage(self, document: Mapping[str, Any]) -> None:
        """Take the usage of one chunk, or of a whole completion."""
        self.add(document.get("usage"))
        beside = document.get("x_groq")
        if isinstance(beside, Mapping):
            self.add(beside.get("usage"))

    def add(self, usage: object) -> None:
        """Keep the largest count of each kind: a running count grows, and zeros after it say nothing."""
        if not isinstance(usage, Mapping):
            return
        for kind, names in _NAMES.items():
            self._counted[kind] = max(self._counted[kind], *(_count(usage.get(name)) for name in names))
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
        self._cached = max(self._cached, _count(cached), *(_count(usage.get(name)) for name in _CACHED))

    @property
    def cached_input_tokens(self) -> int:
        """Input tokens that the endpoint had in its cache."""
        return min(self._cached, self._counted["prompt_tokens"])

    def usage_to_charge(self, input_characters: int, output_characters: int) -> TokenUsage:
        """Return what was counted; a side without a count is the total less the other, else an estimate. Some count
        reasoning only in the total: it is charged as output."""
        asked, answered, total = self._counted.values()
        if not asked:
            asked = total - answered if answered and total > answered else estimated_tokens(input_characters)
            asked = min(asked, total) if total else asked
        if not answered and total <= asked:
            answered = estimated_tokens(output_characters)
        answered = max(answered, total - asked)
        is_estimated = not (self._counted["prompt_tokens"] and self._counted["completion_tokens"])
        return TokenUsage(input_tokens=asked, output_tokens=answered, estimated=is_estimated)


def estimated_tokens(characters: int) -> int:
    """Return about how many tokens a text of that length has, rather too many than too few."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def _count(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:_MAX_DIGITS])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return 0
    return min(math.ceil(value), _MOST)
