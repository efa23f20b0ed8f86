"""Metadata at the head of a Markdown document: YAML between lines of `---`, TOML between lines of `+++`.

A line of `---` is also a ruler, so what follows counts as metadata only when it has the form of it; else it is text.
"""

import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import yaml

MAX_CHARACTERS = 64 * 1024
"""Longer metadata is taken for text."""

_YAML, _TOML = "---", "+++"
_ENDS = {_YAML: ("---", "..."), _TOML: ("+++",)}


def split_front_matter(text: str) -> tuple[str, str]:
    """Return the title that the front matter of `text` names, or an empty one, and the text without front matter."""
    head = text[:MAX_CHARACTERS].split("\n")
    fence = head[0].rstrip()
    ends = _ENDS.get(fence, ())
    end = next((number for number, line in enumerate(head[1:], 1) if line.rstrip() in ends), 0)
    if not end or (end == len(head) - 1 and len(text) > MAX_CHARACTERS):
        return "", text
    lines = head[1:end]
    title = _READERS[fence](lines)
    if title is None:
        return "", text
    return title, text[sum(len(line) + 1 for line in head[: end + 1]) :]


def _yaml_title(lines: Sequence[str]) -> str | None:
    if not _has_form_of_yaml(lines):
        return None
    try:
        fields = yaml.safe_load("\n".join(lines))
    except (yaml.YAMLError, ValueError, RecursionError):
        return _line_of_title(lines)
    return _title_among(fields) if isinstance(fields, dict) or fields is None else None


def _has_form_of_yaml(lines: Sequence[str]) -> bool:
    """Whether each line may be part of a mapping whose keys are names: prose with a colon in it is not."""
    if not lines:
        return True
    if not lines[0].strip() or not all(map(_may_be_yaml, lines)):
        return False
    keys = [line.partition(":")[0] for line in lines if _is_entry(line)]
    return any(key[:1].islower() or key.lower() == "title" for key in keys) or not any(map(str.strip, lines))


def _may_be_yaml(line: str) -> bool:
    return not line.strip() or line[0] in " \t#-]}" or _is_entry(line)


def _is_entry(line: str) -> bool:
    key, colon, value = line.partition(":")
    name = key.strip().strip("'\"")
    return bool(colon and name) and not any(map(str.isspace, name)) and value[:1] in ("", " ", "\t")


def _line_of_title(lines: Sequence[str]) -> str:
    """The title in metadata that is not quite YAML, as `title: Ports: an overview` is not."""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == "title":
            return value.strip().strip("'\"").strip()
    return ""


def _toml_title(lines: Sequence[str]) -> str | None:
    try:
        return _title_among(tomllib.loads("\n".join(lines)))
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _title_among(fields: dict[Any, Any] | None) -> str:
    found = next((value for key, value in (fields or {}).items() if str(key).lower() == "title"), "")
    return "" if isinstance(found, (dict, list, set)) or found is None else str(found).strip()


_READERS: dict[str, Callable[[Sequence[str]], str | None]] = {_YAML: _yaml_title, _TOML: _toml_title}
