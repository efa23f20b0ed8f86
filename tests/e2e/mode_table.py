"""What a user sees of each oddity of a model endpoint, through writer, API and command line, as a Markdown table.

    python -m tests.e2e.mode_table ENDPOINT.py [MODE...]

ENDPOINT.py serves OpenAI's API on the port that it is given, acts as `POST /stub/mode` says, and has its modes in
`MODES` and `STATUS`. Brings up a fleet of its own; takes minutes. Fails where a user sees no answer and no reason, or
an error of Python's.
"""

import argparse
import asyncio
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flotilla_devstack.ports import free_port
from tests.e2e.fleet import Fleet, finished
from tests.support.waiting import eventually

QUESTION = "Who may approve a refund?"
DOCUMENT = "# Refunds\n\nMarta Quill may approve a refund of up to 500 euros.\n"
MAX_CELL_CHARS = 160
PYTHONS_OWN = re.compile(
    r"Traceback|\b(?:Key|Type|Attribute|Index|Unicode\w*|JSONDecode|Runtime|Recursion|Assertion)Error\b"
)


@dataclass(frozen=True)
class Seen:
    """What came of one question."""

    mode: str
    api: str
    cli: str
    asked: int

    @property
    def problem(self) -> str | None:
        """Why no user should see this."""
        if PYTHONS_OWN.search(self.api + self.cli):
            return "an error of Python's"
        return None if self.api.partition(": ")[2].strip() else "neither an answer nor a reason"


@contextmanager
def serving(endpoint: Path) -> Iterator[str]:
    """The endpoint as a process; its root."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(endpoint), str(port)])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def fleet_asking(root: str) -> Iterator[Fleet]:
    """A fleet whose writer asks the endpoint at `root`."""
    environment = {
        "OPENAI_BASE_URL": f"{root}/v1",
        "OPENAI_API_KEY": "test",
        "FLOTILLA_LLM_MODEL": "stub",
        "FLOTILLA_LLM_TIMEOUT_S": "20",
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        fleet = Fleet(Path(home), environment)
        try:
            fleet.up()
            document = Path(home) / "refunds.md"
            document.write_text(DOCUMENT)
            fleet.cli("documents", "add", str(document))
            yield fleet
        finally:
            fleet.down()


def modes_of(endpoint: Path) -> list[str]:
    """The names of everything that it can do."""
    spec = importlib.util.spec_from_file_location("endpoint", endpoint)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [*module.MODES, *module.STATUS]


async def see(fleet: Fleet, root: str, mode: str) -> Seen:
    """Ask the question in `mode`."""
    async with fleet.client() as client:
        await client.post(f"{root}/stub/mode", json={"mode": mode})
        session_id = f"mode-{re.sub('[^a-z0-9]', '-', mode)}"
        printed = await asyncio.to_thread(fleet.cli, "ask", QUESTION, "--session", session_id, check=False)
        (run,) = (await client.get("/v1/runs", params={"session_id": session_id})).json()["runs"]
        run = await finished(client, run["run_id"])
        asked = len((await client.get(f"{root}/stub/log")).json())
    shown = printed.stdout + printed.stderr
    return Seen(mode, _of_api(run), f"{_one_line(shown)} (exit {printed.returncode})", asked)


def _of_api(run: dict[str, Any]) -> str:
    if run["status"] != "success":
        return f"{run['status']}: {_one_line(run['error']['message'])}"
    result = run["result"]
    usage = "estimated" if result["usage"]["estimated"] else "counted"
    return f"{result['finish_reason']}, tokens {usage}: {_one_line(result['answer'])}"


def _one_line(text: str) -> str:
    line = re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
    return line if len(line) <= MAX_CELL_CHARS else f"{line[:MAX_CELL_CHARS]}…"


def row(*cells: object) -> str:
    """One line of the table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


async def table(fleet: Fleet, root: str, modes: list[str]) -> list[Seen]:
    """Print a row for each mode as soon as it is known."""
    rows = []
    for head in (("mode", "API", "CLI", "asked"), ("---",) * 4):
        sys.stdout.write(row(*head) + "\n")
    for mode in modes:
        seen = await see(fleet, root, mode)
        sys.stdout.write(row(seen.mode, seen.api, seen.cli, seen.asked) + "\n")
        sys.stdout.flush()
        rows.append(seen)
    return rows


async def listens(root: str) -> bool:
    """Whether the endpoint answers."""
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{root}/stub/log")).is_success
    except httpx.TransportError:
        return False


def main() -> int:
    """Print the table; fail with the modes that no user should see."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint", type=Path)
    parser.add_argument("modes", nargs="*")
    asked = parser.parse_args()
    with serving(asked.endpoint) as root:
        asyncio.run(eventually_listens(root))
        with fleet_asking(root) as fleet:
            rows = asyncio.run(table(fleet, root, asked.modes or modes_of(asked.endpoint)))
    problems = [f"{seen.mode}: {seen.problem}" for seen in rows if seen.problem]
    sys.stdout.write("\n".join(["", *problems, f"{len(rows)} modes, {len(problems)} problems", ""]))
    return 1 if problems else 0


async def eventually_listens(root: str) -> None:
    """Wait for the endpoint."""
    await eventually(lambda: listens(root))


if __name__ == "__main__":
    raise SystemExit(main())
