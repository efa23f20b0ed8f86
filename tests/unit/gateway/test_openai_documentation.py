"""docs/openai.md lists the parameters as the code has them."""

import re
from pathlib import Path

from gateway.openai.parameters import DEFAULTS, IGNORED

PAGE = (Path(__file__).parents[3] / "docs/openai.md").read_text(encoding="utf-8")


def listed(outcome: str) -> set[str]:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and f"| {outcome}" in line]
    return set(re.findall(r"`(\w+)`", row.split("|")[1]))


def test_page_lists_what_is_ignored_and_what_is_refused() -> None:
    assert listed("ignored: ") == set(IGNORED)
    assert listed("refused (400), unless ") == set(DEFAULTS)
