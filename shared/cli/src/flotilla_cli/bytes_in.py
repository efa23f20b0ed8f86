"""Bytes on the command line that are not UTF-8: a file may be named so, a text may not."""

import os
import re
from collections.abc import Iterable
from urllib.parse import quote_from_bytes

from flotilla_cli.errors import Misuse

_ESCAPED = re.compile("[\ud800-\udfff]+")
"""What Python makes of such bytes (surrogateescape, PEP 383)."""

_UNFIT = re.compile("[\ud800-\udfff\x00-\x1f\x7f-\x9f]+|%(?=[0-9A-Fa-f]{2})")


def check_arguments_are_utf8(arguments: Iterable[str]) -> None:
    """Refuse arguments that are not UTF-8, unless they name a file that exists.

    Raises:
        Misuse: with the argument's place on the command line.
    """
    for number, argument in enumerate(arguments, 1):
        if _ESCAPED.search(argument) and not any(map(os.path.exists, _possible_files(argument))):
            shown = argument.encode(errors="backslashreplace").decode()
            raise Misuse(
                f"argument {number} has a byte that is not UTF-8, and names no file: {shown}",
                "write texts in UTF-8; check the path of a file",
            )


def _possible_files(argument: str) -> tuple[str, ...]:
    """`PATH`, `--option=PATH`, `@PATH`."""
    return argument, argument.partition("=")[2], argument.removeprefix("@")


def percent_encode_name(name: str) -> str:
    """Return `name` with `%XX`, as in URIs, for each byte that is not UTF-8, each control character, and each `%` of a
    name that has `%XX` itself, so that no two names become one."""
    return _UNFIT.sub(lambda found: quote_from_bytes(os.fsencode(found[0])), name)
