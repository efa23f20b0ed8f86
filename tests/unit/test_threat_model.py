"""The threat model names alerts, log lines, events and tests that there are."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for top in ("shared/flotilla/src", "services")
    for path in (ROOT / top).rglob("*.py")
)
REFUSALS = {
    "redis_denied",
    "task_refused",
    "reply_refused",
    "bus_stream_reset",
    "vote_refused",
    "execution_refused",
    "call_refused",
    "impersonation_refused",
    "checkpoints_lost",
}


def attacks() -> list[list[str]]:
    """The rows about what holds: attack, what the attacker sees, trace, by what, tested where."""
    section = PAGE.partition("## What holds")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:2] == "| "
    ]
    return rows[1:]


def variations() -> list[list[str]]:
    """The rows about variations: attack, what was tried, tested where."""
    section = PAGE.partition("## Attacks and their variations")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    return [[cell.strip(" |") for cell in row] for row in rows[1:]]


def named(after: str, text: str) -> set[str]:
    """Names in backticks that follow `after`: one, or several with commas and words between."""
    lists = re.findall(rf"\b{after}s? ((?:`[^`]+`(?:, | or | and )?)+)", text)
    return {name for found in lists for name in re.findall(r"`([^`]+)`", found)}


@pytest.mark.parametrize("row", attacks(), ids=lambda row: row[0][:60])
def test_each_attack_says_what_is_seen_where_its_trace_is_and_what_tests_it(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row)
    trace = row[2]
    assert re.search(r"alert|no trace|the same|log", trace), trace


def test_its_alerts_are_alerts() -> None:
    rules = yaml.safe_load((ROOT / "k8s/monitoring/rules.yaml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    found = set(re.findall(r"`(Flotilla[A-Z]\w+)`", PAGE))
    assert found <= alerts
    assert len(found) > 5


def test_its_log_lines_and_events_are_written_somewhere() -> None:
    traces = "\n".join(row[2] for row in attacks())
    lines, events = named("log", traces), named("event", traces)
    assert lines >= REFUSALS
    for name in lines | events:
        assert f'"{name}"' in SOURCES, name


def test_its_tests_are_there() -> None:
    places = {name for row in attacks() for name in re.findall(r"`([a-z_0-9]+(?:/[a-zA-Z_0-9.]+)+)`", row[4])}
    assert len(places) > 25
    for place in places:
        roots = (ROOT / "tests" / place, ROOT / "services/gateway" / place)
        assert any(path.exists() or path.with_suffix(".py").exists() for path in roots), place


def test_each_attack_has_its_variations() -> None:
    assert {int(attack.partition(":")[0]) for attack, _, _ in variations()} == set(range(1, 18))


@pytest.mark.parametrize("row", variations(), ids=lambda row: row[0])
def test_each_variation_of_an_attack_has_a_test_that_exists(row: list[str]) -> None:
    _, tried, tested = row
    letters = re.findall(r"\((\w)\)", tried)
    assert letters == [*"abcdefgh"][: max(len(letters), 5)]
    covered: set[str] = set()
    for group in tested.split("; "):
        which, place, name = re.fullmatch(r"([a-h, -]+) `([^`:]+)(?:::(\w+))?`", group).groups()  # type: ignore[union-attr]
        for part in which.split(", "):
            covered |= {chr(code) for code in range(ord(part[0]), ord(part[-1]) + 1)}
        if name is None:
            assert (ROOT / "services/gateway" / place).exists(), place
        else:
            assert f"def test_{name}(" in (ROOT / f"tests/{place}.py").read_text(encoding="utf-8"), name
    assert covered == set(letters)


def test_each_place_is_a_file_of_the_repository() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
