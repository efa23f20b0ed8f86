"""`docs/topologies.md`: the tests that it names exist, and what it says is refused is refused in these words."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "topologies.md"
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
SUPPORTED = [row for row in ROWS if len(row) == 4 and row[0] != "server"]


def test_every_row_names_its_test() -> None:
    assert len(SUPPORTED) > 20
    assert [row[0] for row in SUPPORTED if "](" not in row[3] and row[3] != "all"] == []


def test_the_tests_that_are_named_exist() -> None:
    named = re.findall(r"\[([^]]+)\]\(\.\./(tests/[^)]+)\)", PAGE.read_text(encoding="utf-8"))
    missing = [f"{path}: {name}" for name, path in named if f"def test_{name.replace(' ', '_')}(" not in source(path)]
    assert missing == []


def test_what_is_refused_is_refused_in_these_words() -> None:
    quoted = re.findall("refused: “([^”]+)”", PAGE.read_text(encoding="utf-8"))
    assert len(quoted) >= 8
    assert [words for words in quoted if not any(words in text for text in messages())] == []


@cache
def source(path: str) -> str:
    """The text of a file; empty where there is none."""
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.exists() else ""


@cache
def messages() -> tuple[str, ...]:
    """Every text of the library, as it is once its parts are put together; what is filled in is left out."""
    found: list[str] = []
    for file in (ROOT / "shared/flotilla/src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)
