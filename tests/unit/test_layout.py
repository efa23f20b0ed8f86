"""docs/architecture.md, the import rules and the library's folders describe the same packages in the same order."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "shared/flotilla/src/flotilla"


def layers() -> list[set[str]]:
    """The library's packages by import-linter's layers, the lowest first."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(contract for contract in config["contracts"] if contract["type"] == "layers")
    return [set(re.findall(r"flotilla\.(\w+)", layer)) for layer in reversed(contract["layers"])]


def documented() -> list[set[str]]:
    """The packages in each row of the page's table."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.partition("## Where code lives")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def test_the_page_lists_the_packages_in_the_order_of_the_import_rules() -> None:
    assert documented() == layers()


def test_every_package_of_the_library_has_a_layer() -> None:
    found = {path.stem for path in LIBRARY.iterdir() if not path.name.startswith("__") and path.suffix in {"", ".py"}}
    assert set.union(*layers()) == found
