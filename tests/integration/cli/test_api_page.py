"""`docs/api.md`: its commands run as they are written, and print what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/api.md").read_text()
CURL = ROOT / "tests/support/curl.py"


def block(language: str) -> str:
    """All the page's code in one language, as one program."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def path_with_curl(folder: Path) -> str:
    """PATH, with this Python first; with a stand-in for curl where there is none."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if shutil.which("curl"):
        return path
    stand_in = folder / "bin/curl"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{CURL}" "$@"\n')
    stand_in.chmod(0o755)
    return f"{stand_in.parent}:{path}"


@pytest.mark.parametrize("language", ["bash", "python"])
def test_commands_of_the_page_run_and_print_what_it_says(fleet: Fleet, tmp_path: Path, language: str) -> None:
    program = block(language)
    if language == "python":
        (tmp_path / "refunds.md").write_text("# Handbook\n\nRefunds over 100 euros need the approval of a team lead.\n")
        fleet.cli("documents", "add", str(tmp_path / "refunds.md"))
    command = {"bash": ["bash", "-euo", "pipefail", "-c", program], "python": [sys.executable, "-c", program]}[language]
    known = {"FLOTILLA_URL": fleet.status()["url"], "FLOTILLA_HOME": str(fleet.home), "PATH": path_with_curl(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **known}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rest = done.stdout
    for expected in re.findall(r"# prints (.*)$", program, re.MULTILINE):
        assert expected in rest, f"{expected!r} is not printed after what came before:\n{done.stdout}\n{done.stderr}"
        rest = rest[rest.index(expected) + len(expected) :]
