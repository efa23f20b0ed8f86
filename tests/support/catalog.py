"""The services as their service.toml files declare them."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

SERVICES_FOLDER = Path(__file__).parents[2] / "services"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One service of the fleet."""

    name: str
    module: str
    uses: tuple[str, ...]
    """Of postgres, redis, kafka, temporal and llm."""
    postgres_role: str
    redis_user: str | None
    ports: tuple[str, ...]
    agent: str | None
    """The agent's name, where the service is one."""


def load_catalog() -> dict[str, Declared]:
    """Return the fleet's services by name, without agents of one's own, which have a lock in their folder."""
    files = sorted(SERVICES_FOLDER.glob("*/service.toml"))
    found = [_declared(file) for file in files if not (file.parent / "requirements.txt").exists()]
    return {each.name: each for each in found}


def _declared(file: Path) -> Declared:
    text = tomllib.loads(file.read_text(encoding="utf-8"))
    known = {"name", "module", "uses", "postgres_role", "redis_user", "ports", "agent"}
    assert set(text) <= known, f"{file}: {set(text) - known}"
    return Declared(
        name=text["name"],
        module=text["module"],
        uses=tuple(text["uses"]),
        postgres_role=text["postgres_role"],
        redis_user=text.get("redis_user"),
        ports=tuple(text["ports"]),
        agent=text.get("agent"),
    )


CATALOG = load_catalog()
SERVICES = tuple(CATALOG)
