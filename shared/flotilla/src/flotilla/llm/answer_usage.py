"""Tokens of one answer: as the endpoint counts them, else estimated, so that a budget never counts nothing."""

import math
from collections.abc import Mapping

from flotilla.contracts.tasks import TokenUsage

CHARACTERS_PER_TOKEN = 3
"""Fewer than English text has (about 4), so that an estimate is rather too high."""
_MOST = 10**9


class AnswerUsage:
    """Takes every `usage` of a stream: one at the end, a running count, parts of one, floats, zeros."""

    def __init__(self) -> None:
        self._counted = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self._cached = 0

    def add(self, usage: object) -> None:
        """Keep the largest count of each kind: a running count grows, and zeros after it say nothing."""
        if isinstance(usage, Mapping):
            for name, known in self._counted.items():
                self._counted[name] = max(known, _count(usage.get(name)))
            details = usage.get("prompt_tokens_details")
            if isinstance(details, Mapping):
                self._cached = max(self._cached, _count(details.get("cached_tokens")))

    @property
    def cached_input_tokens(self) -> int:
        """Input tokens that the endpoint had in its cache."""
        return min(self._cached, self._counted["prompt_tokens"])

    def tokens(self, input_characters: int, output_characters: int) -> TokenUsage:
        """Return what was counted; a side without a count is the total less the other, else an estimate."""
        asked, answered, total = self._counted.values()
        if not asked:
            asked = total - answered if answered and total > answered else estimated_tokens(input_characters)
            asked = min(asked, total) if total else asked
        if not answered:
            answered = total - asked if total > asked else estimated_tokens(output_characters)
        is_estimated = not (self._counted["prompt_tokens"] and self._counted["completion_tokens"])
        return TokenUsage(input_tokens=asked, output_tokens=answered, estimated=is_estimated)


def estimated_tokens(characters: int) -> int:
    """Return about how many tokens a text of that length has, rather too many than too few."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return min(math.ceil(max(value, 0)), _MOST)
