"""The command as a whole: its contract, its help, its reference, its start."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flotilla_cli.main import app
from flotilla_cli.reference import write_cli_reference
from tests.support.command import run_command

ROOT = Path(__file__).parents[3]
FLOTILLA = Path(sys.executable).parent / "flotilla"
CONTRACT = """
up | down | status | logs | demo | doctor | ask
documents add | documents list | documents search
runs list | runs get | runs events | runs cancel
sessions list | sessions show | sessions events | sessions state | sessions diff | sessions fork | sessions rollback
actions submit | actions get
approvals list | approvals show | approvals approve | approvals reject | approvals edit
orders place | orders get | orders list | orders retry | orders skip | orders resolve
agents list | new agent | spend
keys create | keys list | keys revoke
tasks submit
dead-letters list | dead-letters show | dead-letters redrive | dead-letters discard
audit verify | audit checkpoints | audit export | audit rebuild | audit drop-kept | audit requests | audit confirm
audit parked list | audit parked explain | audit parked retry | audit parked accept | audit parked reject
audit parked discard
outbox status | outbox redrive
"""
LISTINGS = ("list", "checkpoints", "events", "search", "status", "requests")


def verbs(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        full = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            yield from verbs(command, full)
        else:
            yield full, command


VERBS = dict(verbs(typer.main.get_command(app)))


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_every_verb_of_the_contract_is_there() -> None:
    promised = {verb.strip() for verb in re.split(r"[|\n]", CONTRACT) if verb.strip()}
    assert promised <= VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_by_help_and_examples(verb: str) -> None:
    command = VERBS[verb]
    assert command.help
    assert f"flotilla {verb}" in command.epilog
    assert all(parameter.help for parameter in command.params if parameter.name != "help")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.split()[-1] in LISTINGS])
def test_every_listing_takes_json(verb: str) -> None:
    assert {"-o", "--output"} <= options(VERBS[verb])


LOCAL = {
    "up",
    "down",
    "status",
    "logs",
    "demo",
    "new agent",
    "new workflow",
    "audit verify",
    "audit log-keys",
    "backup create",
    "backup verify",
    "backup restore",
    "privacy rotate-root",
    "tenants export",
    "tenants import",
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in LOCAL])
def test_every_verb_of_the_gateway_takes_the_connections_options(verb: str) -> None:
    assert {"--url", "--token", "--as"} <= options(VERBS[verb])


def test_the_reference_is_up_to_date() -> None:
    hint = "run: python -m flotilla_cli.reference > docs/cli.md"
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == write_cli_reference(), hint


def test_help_loads_no_client_and_no_server() -> None:
    code = "import sys, flotilla_cli.main; print([m for m in sys.modules if m.split('.')[0] in HEAVY])"
    heavy = "HEAVY = {'httpx', 'rich', 'asyncpg', 'redis', 'aiokafka', 'temporalio', 'pydantic', 'flotilla_devstack'}; "
    done = subprocess.run([sys.executable, "-c", heavy + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command([*arguments], os.environ, 60)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("runs", "get"),
        ("documents", "search", "q", "-k", "0"),
        ("sessions", "list", "-o", "yaml"),
        ("--url", "nowhere", "runs", "list"),
        ("orders", "place", "--order-id", "o", "--user", "u", "--amount", "x", "--product", "p", "--token", "t"),
        ("dead-letters", "redrive", "--token", "t"),
        ("sessions", "state", "s", "--at-seq", "1", "--at-time", "2026-01-01T00:00:00Z", "--token", "t"),
        ("up", "--port", "gateway.http=99999"),
        ("up", "--port", "gateway=8080"),
        # A variable that a script did not set.
        ("sessions", "show", "", "--token", "t"),
        ("runs", "cancel", " ", "--token", "t"),
        ("ask", "", "--token", "t"),
        ("ask", "why?", "--session", "", "--token", "t"),
        ("sessions", "show", "a/../b", "--token", "t"),
        ("runs", "list", "--session", "a?b", "--token", "t"),
        ("sessions", "state", "s", "--at-time", "yesterday", "--token", "t"),
        ("documents", "search", "", "--token", "t"),
    ],
)
def test_misuse_exits_with_2_and_reports_it_on_standard_error(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done
    assert done.stderr
    assert not done.stdout


def test_a_gateway_that_is_away_exits_with_1_and_says_what_to_do() -> None:
    done = run("runs", "list", "--url", "http://127.0.0.1:9", "--token", "t")
    assert done.returncode == 1
    assert "no answer from the gateway at http://127.0.0.1:9" in done.stderr
    assert "→" in done.stderr


def alone(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where no stack was ever started, and nothing is set."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FLOTILLA_HOME": str(tmp_path)}
    return run_command([*arguments], environment, 60)


@pytest.mark.parametrize("arguments", [("status",), ("sessions", "list"), ("ask", "why?"), ("approvals", "list")])
def test_without_a_stack_each_verb_exits_with_3_and_says_how_to_start_one(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = alone(tmp_path, *arguments)
    assert done.returncode == 3
    assert "flotilla up" in done.stderr


def test_a_port_that_is_taken_is_reported_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = alone(tmp_path, "up", "--port", f"gateway.http={port}")
    assert done.returncode == 1
    assert f"port {port}, asked for as gateway.http, is in use" in done.stderr
    assert "flotilla up --port" in done.stderr
    assert not (tmp_path / "status.json").exists()


def test_doctor_tells_of_a_stack_that_is_off_once(tmp_path: Path) -> None:
    done = alone(tmp_path, "doctor", "-o", "json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"] if "/" not in check["name"]}
    assert done.returncode == 1
    assert [name for name, check in checks.items() if not check["ok"]] == ["stack"]
    assert "gateway" not in checks
    assert "flotilla up" in checks["stack"]["hint"]


def test_doctor_of_another_gateway_misses_no_local_stack(tmp_path: Path) -> None:
    done = alone(tmp_path, "doctor", "-o", "json", "--url", "http://127.0.0.1:9", "--token", "t")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"] if "/" not in check["name"]}
    assert [name for name, check in checks.items() if not check["ok"]] == ["gateway"]


def test_an_empty_question_from_standard_input_is_misuse() -> None:
    command = [str(FLOTILLA), "ask", "-", "--url", "http://127.0.0.1:9", "--token", "t"]
    done = subprocess.run(command, input=" \n", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "there is no question" in done.stderr


def test_the_version_is_the_distributions() -> None:
    shown = subprocess.run([FLOTILLA, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout == "flotilla 0.1.0\n"


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "UPGRADING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAID = re.compile(r"`flotilla ([a-z][^`]*)`|^\$? ?(?:.*&& )?flotilla ([a-z].*)$", re.MULTILINE)


def said_in(page: Path) -> list[str]:
    """What the page says of the command, without comments and what comes after a pipe."""
    found = SAID.findall(page.read_text(encoding="utf-8"))
    return [re.split(r"\s#|\||>|&&|;", first or second)[0] for first, second in found]


def verb_of(words: list[str]) -> str | None:
    """The verb that the words begin with; None where they begin with none."""
    return next((verb for n in (3, 2, 1) if (verb := " ".join(words[:n])) in VERBS), None)


@pytest.mark.parametrize("page", [page for page in PAGES if said_in(page)], ids=lambda page: str(page.name))
def test_every_command_of_the_pages_exists_with_its_options(page: Path) -> None:
    for line in said_in(page):
        words = line.replace("\n", " ").split()
        verb = verb_of(words)
        is_group = any(name.startswith(f"{words[0]} ") for name in VERBS) and len(words) == 1
        assert verb or is_group, f"{page.name}: there is no flotilla {line}"
        known = options(VERBS[verb]) if verb else set()
        said = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
        assert said <= known, f"{page.name}: flotilla {verb} takes no {said - known}"
