"""The folder of a new agent: lints, type-checks, tests and runs as it is written."""

import keyword
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from flotilla.contracts.errors import Conflict, Invalid

_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_SUFFIX = ".tmpl"
_MODULE = "module"


def write_agent(name: str, folder: Path) -> list[Path]:
    """Writes the new agent `name` into `folder`, which is made; gives the files written.

    Raises:
        Invalid: `name` is not lower-case letters, digits and hyphens, 40 at most.
        Conflict: `folder` exists and is not empty.
    """
    if not _NAME.fullmatch(name) or "--" in name:
        raise Invalid(f"{name!r} can't name an agent: lower-case letters, digits and single hyphens, 40 at most")
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty: choose another folder, or empty it first")
    words = _words_of(name)
    templates = resources.files(__package__).joinpath("files")
    return [_write(template, folder, where, words) for where, template in _files(templates)]


def _words_of(name: str) -> dict[str, str]:
    plain = name.replace("-", "_")
    return {
        "name": name,
        "distribution": f"{name}-agent",
        "module": f"{plain}_agent",
        "function": f"{plain}_task" if keyword.iskeyword(plain) or plain in {"agent", "count_words"} else plain,
        "kind": "".join(part.capitalize() for part in name.split("-")),
    }


def _files(folder: Traversable, below: str = "") -> list[tuple[str, Traversable]]:
    found = []
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        where = f"{below}{item.name}"
        found += _files(item, f"{where}/") if item.is_dir() else [(where, item)]
    return [(where, item) for where, item in found if where.endswith(_SUFFIX)]


def _write(template: Traversable, folder: Path, where: str, words: dict[str, str]) -> Path:
    first, _, rest = where.removesuffix(_SUFFIX).partition("/")
    target = folder / (words["module"] if first == _MODULE else first) / rest if rest else folder / first
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(Template(template.read_text("utf-8")).substitute(words), "utf-8")
    return target
