"""The pages' Python can be pasted: it is Python, and what it imports of Flotilla is there."""

import ast
import builtins
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_a_block_imports_what_exists(page: str, block: str) -> None:
    imports = [node for node in ast.walk(ast.parse(block, page)) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if (node.module or "").startswith("flotilla"):
            module = importlib.import_module(str(node.module))
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{page}: {node.module} has no {missing}"


@pytest.mark.parametrize(("page", "block"), [one for one in BLOCKS if "asyncio.run(" in one[1]])
def test_a_script_names_nothing_that_it_does_not_define(page: str, block: str) -> None:
    known = set(dir(builtins))
    used = set[str]()
    for node in ast.walk(ast.parse(block, page)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
    assert used <= known, f"{page} does not say what {used - known} is"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_tests_and_modules_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:tests|services|shared)/[\w/.-]+)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
