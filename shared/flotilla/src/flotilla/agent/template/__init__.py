"""The folder of a new agent: lints, type-checks, tests and runs as it is written."""

import keyword
import re
from collections.abc import Collection
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from flotilla.contracts.errors import Conflict, Invalid

_AGENT_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_TEMPLATE_SUFFIX = ".tmpl"
_MODULE_FOLDER = "module"
_WORDS_INSIDE_REPOSITORY = {
    "source": "[tool.uv.sources]\nflotilla-fleet = { workspace = true }\n",
    "setup": "make setup            # at the root of the repository\npython -m pytest",
    "image": "`make images load` at the root of the repository builds its image beside the fleet's, and loads it.",
    "wheels": "",
}
_ONLY_OUTSIDE = {"Dockerfile.tmpl"}  # in the repository, its own Dockerfile builds every service
WHEELS = """[tool.uv.sources]
flotilla-fleet = { index = "flotilla" }

[[tool.uv.index]]
name = "flotilla"
url = "%s"
format = "flat"
explicit = true
"""
SETUP_OUTSIDE = "uv sync               # takes Flotilla from the wheels that pyproject.toml names\nuv run pytest"
_IMAGE_INSTRUCTIONS = """\
The first lines of the `Dockerfile` say how to build the image. `requirements.txt` pins its packages; a new
one in `pyproject.toml` goes there, too, with its hashes (`uv pip compile --generate-hashes`)."""


def write_agent(name: str, folder: Path, *, wheels: Path | None = None) -> list[Path]:
    """Write the new agent `name` into `folder`, which is made; return the files written.

    It takes Flotilla from the folder `wheels`; with None it is a member of Flotilla's own workspace.

    Raises:
        Invalid: `name` is not lower-case letters, digits and hyphens, 40 at most.
        Conflict: `folder` exists and is not empty.
    """
    check_new_project(name, folder, "an agent")
    words = _words_of_agent_name(name) | (
        _WORDS_INSIDE_REPOSITORY if wheels is None else _words_outside_repository(wheels)
    )
    left_out = _ONLY_OUTSIDE if wheels is None else set()
    return render_templates(resources.files(__package__).joinpath("files"), folder, words, left_out)


def check_new_project(name: str, folder: Path, what: str) -> None:
    """Check the name of something new, and the folder that it is to be written into.

    Raises:
        Invalid: `name` is not lower-case letters, digits and hyphens, 40 at most.
        Conflict: `folder` exists and is not empty.
    """
    if not _AGENT_NAME.fullmatch(name) or "--" in name:
        raise Invalid(f"{name!r} can't name {what}: lower-case letters, digits and single hyphens, 40 at most")
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty: choose another folder, or empty it first")


def render_templates(
    templates: Traversable, folder: Path, words: dict[str, str], left_out: Collection[str] = ()
) -> list[Path]:
    """Write every template with `words` in their places; return the files written."""
    return [
        _write_rendered_file(template, folder, where, words)
        for where, template in _list_template_files(templates)
        if where not in left_out
    ]


def _words_outside_repository(wheels: Path) -> dict[str, str]:
    return {
        "source": WHEELS % wheels.resolve().as_uri(),
        "setup": SETUP_OUTSIDE,
        "image": _IMAGE_INSTRUCTIONS,
        "wheels": str(wheels.resolve()),
    }


def _words_of_agent_name(name: str) -> dict[str, str]:
    plain = name.replace("-", "_")
    return {
        "name": name,
        "distribution": f"{name}-agent",
        "module": f"{plain}_agent",
        "function": f"{plain}_task" if keyword.iskeyword(plain) or plain in {"agent", "count_words"} else plain,
        "kind": "".join(part.capitalize() for part in name.split("-")),
    }


def _list_template_files(folder: Traversable, below: str = "") -> list[tuple[str, Traversable]]:
    found = []
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        where = f"{below}{item.name}"
        found += _list_template_files(item, f"{where}/") if item.is_dir() else [(where, item)]
    return [(where, item) for where, item in found if where.endswith(_TEMPLATE_SUFFIX)]


def _write_rendered_file(template: Traversable, folder: Path, where: str, words: dict[str, str]) -> Path:
    first, _, rest = where.removesuffix(_TEMPLATE_SUFFIX).partition("/")
    target = folder / (words["module"] if first == _MODULE_FOLDER else first) / rest if rest else folder / first
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(Template(template.read_text("utf-8")).substitute(words), "utf-8")
    return target
