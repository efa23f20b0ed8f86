"""`docs/frameworks.md` shows what the examples run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECTIONS = re.findall(
    r"^## (\S+)\n\n```python\n(.*?)```", (ROOT / "docs/frameworks.md").read_text(), re.DOTALL | re.MULTILINE
)


def test_each_framework_has_an_example() -> None:
    assert {name.lower() for name, _ in SECTIONS} == {
        folder.parent.name for folder in ROOT.glob("examples/*/pyproject.toml")
    }


@pytest.mark.parametrize(("name", "code"), SECTIONS)
def test_code_on_the_page_is_that_of_the_example(name: str, code: str) -> None:
    folder = ROOT / "examples" / name.lower()
    (source,) = folder.glob("refunds_*/agent.py")
    assert code in source.read_text()
