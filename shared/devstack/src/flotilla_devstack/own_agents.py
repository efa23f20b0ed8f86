"""Agents of one's own beside the six services: folders that `flotilla new agent` wrote, known by their service.toml."""

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from flotilla_devstack.errors import DevstackError
from flotilla_devstack.folders import StateDir, write_atomically
from flotilla_devstack.services import AGENT_ROLE, METRICS, SERVICES, ServiceSpec

FILE = "service.toml"
SIDECAR = "flotilla.agent.sidecar"
"""What runs an agent in another language, and starts its program."""
_AGENT = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_MODULE = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)


def read_agent_folders(folders: Iterable[Path]) -> dict[str, ServiceSpec]:
    """Return the agents of these folders by their services' names.

    Raises:
        DevstackError: a folder has no service.toml of an agent, or two have the same name.
    """
    found: dict[str, ServiceSpec] = {}
    for folder in folders:
        spec = _read(folder.resolve())
        if spec.name in SERVICES or spec.name in found:
            raise DevstackError(f"{folder}: the stack has a service {spec.name} already: give the agent another name")
        found[spec.name] = spec
    return found


def find_agent_folders(*roots: Path) -> list[Path]:
    """Return those of `roots`, and of the folders in them, that hold an agent beside the six services."""
    candidates = [folder for root in roots for folder in (root, *sorted(root.glob("*-agent")))]
    return list(dict.fromkeys(folder.resolve() for folder in candidates if _is_own(folder)))


def request_agents(folders: Iterable[Path], state_dir: StateDir) -> None:
    """Ask the running supervisor to add the agents of these folders."""
    write_atomically(state_dir.wanted_agents_file, json.dumps([str(folder.resolve()) for folder in folders]))


def take_requested_agents(state_dir: StateDir) -> list[Path]:
    """Return the folders that somebody asked for since the last call."""
    try:
        wanted = json.loads(state_dir.wanted_agents_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    state_dir.wanted_agents_file.unlink()
    return [Path(folder) for folder in wanted]


def agent_command(spec: ServiceSpec) -> tuple[str, ...]:
    """Return how to run the agent: with its own `.venv`, where it has one, or beside the SDK in another language."""
    if spec.command:
        return (sys.executable, "-m", SIDECAR, *spec.command)
    own = spec.folder / ".venv/bin/python" if spec.folder else None
    return (str(own) if own and own.exists() else sys.executable, "-m", f"{spec.module}.main")


def agent_environment(spec: ServiceSpec) -> Mapping[str, str]:
    """Return the variables of an agent beside those of every service."""
    path = os.pathsep.join(filter(None, (str(spec.folder), os.environ.get("PYTHONPATH"))))
    return {"FLOTILLA_AGENT_NAME": spec.agent or "", "PYTHONPATH": path}


def _is_own(folder: Path) -> bool:
    try:
        return folder.name not in SERVICES and "agent" in _load(folder)
    except DevstackError:
        return False


def _read(folder: Path) -> ServiceSpec:
    text = _load(folder)
    agent, module, command = str(text.get("agent", "")), str(text.get("module", "")), text.get("command", [])
    if not _AGENT.fullmatch(agent) or not (_MODULE.fullmatch(module) or _is_command(command)):
        raise DevstackError(
            f'{folder / FILE} needs agent = "NAME" and module = "PACKAGE", as `flotilla new agent` writes, or '
            'command = ["PROGRAM", "ARGUMENT"] for an agent in another language'
        )
    words = tuple(command) if isinstance(command, list) else ()
    role = AGENT_ROLE.format(agent)
    return ServiceSpec(f"{agent}-agent", module, role, METRICS, agent=agent, folder=folder, command=words)


def _is_command(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word for word in value)


def _load(folder: Path) -> Mapping[str, object]:
    try:
        return tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DevstackError(f"{folder} holds no agent: {FILE} can't be read: {error}") from error
