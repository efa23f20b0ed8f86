"""docs/extending.md does what it says: its diffs are applied to a copy, and the copy is used."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flotilla.agent.template import write_agent
from flotilla.testing import run_task

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
CONSOLE = ROOT / "services/gateway/console"
# How many files the table promises.
PROMISED = {"A kind of event": 4, "A chart value": 2, "A page of the console": 2}


def files_of(section: str) -> list[tuple[str, str]]:
    """The files that a section's diff edits, with the edits."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE)
    return re.findall(r"^--- \S+\n\+\+\+ b/(\S+)\n(.*?)(?=^--- |\Z)", diff, re.DOTALL | re.MULTILINE)


def applied(text: str, edits: str) -> str:
    """The text after the edits, each of which must fit one place."""
    for edit in re.split(r"^@@\n", edits, flags=re.MULTILINE)[1:]:
        lines = edit.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line.startswith("-"))
        after = "".join(line[1:] for line in lines if line.startswith("+"))
        assert text.count(before) == 1 or not before, f"this is not in the file once:\n{before}"
        text = text.replace(before, after) if before else after
    return text


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """Copies a folder and applies to it what sections edit there."""

    def made(folder: str, *sections: str) -> Path:
        skipped = shutil.ignore_patterns("node_modules", "console_dist", "__pycache__", "charts")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skipped, symlinks=True)
        for file, edits in (each for section in sections for each in files_of(section)):
            if file.startswith(f"{folder}/"):
                target = tmp_path / file
                target.write_text(applied(target.read_text("utf-8") if target.exists() else "", edits), "utf-8")
        return tmp_path / folder

    return made


@pytest.mark.parametrize(("section", "count"), PROMISED.items())
def test_as_many_files_are_edited_as_the_table_promises(section: str, count: int) -> None:
    assert len(files_of(section)) == count
    row = section.removeprefix("A ").replace("chart value", "chart value of all services")
    assert f"| a {row} | {count} |" in PAGE


def test_a_change_is_one_call_and_sets_the_state() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", SECTIONS["A change"], re.DOTALL | re.MULTILINE)
    found: dict[str, object] = {}
    exec(compile(block, "docs/extending.md", "exec"), found)  # noqa: S102 - the page's own example
    assert block.count("ctx.record(") == 1
    assert "shipper" in found


async def test_a_recorded_change_is_an_event_of_the_session() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", SECTIONS["A change"], re.DOTALL | re.MULTILINE)
    found: dict[str, object] = {}
    exec(compile(block, "docs/extending.md", "exec"), found)  # noqa: S102 - the page's own example
    run = await run_task(found["shipper"], {"parcel": "JD014"})  # type: ignore[arg-type]
    assert run.kinds == ["state_change"]


NEW_KIND = """
from flotilla.contracts.session_events import DATA_OF_KIND, SESSION_EVENT_KINDS, session_event_kind, session_event_type
from flotilla_cli.events import summarize_event
kind = session_event_kind("flotilla.session.note.v1")
assert kind == "note" and kind in SESSION_EVENT_KINDS and DATA_OF_KIND[kind](text="x").text == "x"
print(summarize_event({"type": session_event_type("note"), "data": {"text": "remember the milk"}}))
"""


def test_a_new_kind_of_event_is_known_to_the_library_and_the_command_line(copy: Callable[..., Path]) -> None:
    sources = [copy(f"shared/{name}/src", "A kind of event") for name in ("flotilla", "cli")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))}
    done = subprocess.run(
        [sys.executable, "-c", NEW_KIND], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "remember the milk\n"), done.stderr


def test_the_console_compiles_with_a_new_kind_and_a_new_page(copy: Callable[..., Path]) -> None:
    console = copy("services/gateway/console", "A kind of event", "A page of the console")
    compiler = CONSOLE / "node_modules/typescript/bin/tsc"
    if compiler.exists():  # without Node, the edits fit; nothing else of the console works either
        (console / "node_modules").symlink_to(CONSOLE / "node_modules")
        done = subprocess.run(["node", compiler, "--noEmit"], cwd=console, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_gateway_serves_the_new_page(copy: Callable[..., Path]) -> None:
    copy("services/gateway/console", "A page of the console")
    package = copy("services/gateway/gateway")
    subprocess.run([sys.executable, copy("scripts") / "console_pages.py"], check=True)  # as `make docs` does
    program = "from gateway.console_routes import safe_console_path; print(safe_console_path('/hello'))"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "/hello\n", done.stderr


def test_the_gateway_knows_the_consoles_pages() -> None:
    script = runpy.run_path(str(ROOT / "scripts/console_pages.py"))
    assert script["pages_module"]() == script["PAGES"].read_text(encoding="utf-8"), "run: make docs"


def test_a_chart_value_is_in_every_services_schema(copy: Callable[..., Path]) -> None:
    charts = copy("charts", "A chart value")
    done = subprocess.run([sys.executable, charts / "schema.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    schemas = [path for path in charts.glob("*/values.schema.json") if not path.parent.name.startswith("flotilla")]
    assert len(schemas) > 3
    assert [path for path in schemas if "runtimeClassName" not in path.read_text(encoding="utf-8")] == []


def test_an_agent_is_its_folder_and_one_entry_of_values(tmp_path: Path) -> None:
    folder = tmp_path / "translate-agent"
    assert {path.relative_to(tmp_path).parts[0] for path in write_agent("translate", folder)} == {"translate-agent"}
    (entry,) = re.findall(r"^```yaml\n(.*?)^```", SECTIONS["An agent"], re.DOTALL | re.MULTILINE)
    assert yaml.safe_load(entry) == {"agents": {"translate": {}}}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:services|tests)/[\w./-]+)`", PAGE))))
def test_the_page_names_what_is_there(path: str) -> None:
    assert (ROOT / path).exists()
