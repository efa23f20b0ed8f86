"""One fleet for all tests of the command line, brought up by the command itself, and down after the last of them: its
processes look for work all the time, which slows the tests of others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.e2e.fleet import Fleet
from tests.support.packages import CHOOSING, CHOOSING_ENTRY_POINTS, write_package
from tests.support.scratch import open_folder

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Commands and a whole fleet: on a busy machine that takes its time."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="package")
def fleet() -> Iterator[Fleet]:
    """A running fleet with the built-in model, and a package whose workflows ask people."""
    with open_folder("cli-fleet") as home, open_folder("cli-site") as site:
        write_package(site, "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)
        env = {"OPENAI_API_KEY": "", "FLOTILLA_TOKEN": "", "FLOTILLA_URL": "", "PYTHONPATH": str(site)}
        started = Fleet(home, env)
        try:
            started.up()
            yield started
        finally:
            started.down()


@pytest.fixture(scope="package", autouse=True)
def nonsense(fleet: Fleet) -> str:
    """Published twice to an agent as soon as the fleet is up: the last test looks at the dead letters they become."""
    text = "no task at all"
    with Redis.from_url(fleet.redis_url) as redis:
        for _ in range(2):
            redis.xadd("flotilla.tasks.research", {"event": f"no event: {text}"})
    return text


@pytest.fixture(scope="package")
def handbook(fleet: Fleet) -> str:
    """A document about Northquay's harbour, loaded; its folder's name."""
    folder = fleet.home / "harbour"
    folder.mkdir()
    (folder / "handbook.md").write_text(
        "# Harbour handbook\n\n## Moorings\nEvery mooring line at Northquay is inspected each month "
        "by the harbour master.\n\n## Fuel\nDiesel is sold at pontoon C between seven and nineteen o'clock.\n"
    )
    fleet.cli("documents", "add", str(folder))
    return str(folder)
