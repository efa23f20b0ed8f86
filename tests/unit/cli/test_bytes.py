"""Bytes on the command line that are not UTF-8, as Python hands them over (surrogateescape)."""

import os
from pathlib import Path

import pytest

from flotilla_cli.bytes_in import check_arguments_are_utf8, percent_encode_name
from flotilla_cli.errors import Misuse

BAD = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", BAD],
        ["sessions", "events", BAD],
        ["actions", "submit", "--arg", f"text={BAD}"],
        ["--url", f"http://{BAD}", "agents", "list"],
        ["documents", "add", f"{BAD}.md"],
        ["tasks", "submit", "--input", f"@{BAD}.json"],
    ],
)
def test_text_that_is_not_utf8_is_misuse_and_its_place_is_reported(arguments: list[str]) -> None:
    number = next(number for number, argument in enumerate(arguments, 1) if BAD in argument)
    with pytest.raises(Misuse, match=rf"argument {number} has a byte that is not UTF-8.*caf\\udce9"):
        check_arguments_are_utf8(arguments)


def test_file_that_exists_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / f"{BAD}.md"
    file.write_text("x")
    check_arguments_are_utf8(["documents", "add", str(file), f"--file={file}", f"@{file}", "naïve ✓"])


def test_undecodable_bytes_of_a_name_are_percent_encoded_and_the_rest_is_kept() -> None:
    assert percent_encode_name(f"w/{BAD} ü%.md") == "w/caf%E9 ü%.md"
