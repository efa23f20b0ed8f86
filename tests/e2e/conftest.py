"""Two fleets, each brought up once for all end-to-end tests by `flotilla up`, and down after the last of them: their
processes look for work all the time, which slows the tests of others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet
from tests.e2e.signing import Root
from tests.e2e.stub_endpoint import StubEndpoint, stub_endpoint
from tests.support.otlp import TraceReceiver, trace_receiver
from tests.support.packages import ANNOUNCEMENTS, ANNOUNCEMENTS_ENTRY_POINTS, write_package
from tests.support.scratch import open_folder

HERE = Path(__file__).parent
MANY_TOKENS = 10**9
PRICES = """
currency = "EUR"
[[prices]]
model = "stub"
valid_from = 2020-01-01
input = 1000
cached_input = 1000
output = 1000
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A whole fleet on a busy machine takes its time."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="package")
def traces() -> Iterator[TraceReceiver]:
    """What the services of `fleet` export as traces."""
    with trace_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
def grace(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """The administrator whose approval of a voter's key counts in `fleet`."""
    return Root.made(tmp_path_factory.mktemp("votes"))


@pytest.fixture(scope="package")
def fleet(traces: TraceReceiver, grace: Root) -> Iterator[Fleet]:
    """A fleet with the built-in model, in which `echo` of high risk needs two signed votes."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OPENAI_API_KEY": "",
        "FLOTILLA_APPROVAL_POLICY": str(grace.policy_file),
        "FLOTILLA_VOTE_ROOTS": str(grace.roots_file),
    }
    yield from _running("fleet", environment)


@pytest.fixture(scope="package")
def stub_llm() -> Iterator[StubEndpoint]:
    """An OpenAI-compatible endpoint that counts what it is asked."""
    with stub_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="package")
def llm_fleet(tmp_path_factory: pytest.TempPathFactory, stub_llm: StubEndpoint) -> Iterator[Fleet]:
    """A fleet whose writer asks `stub_llm`, with short time-outs and a quick takeover of a dead peer's work.
    Its worker has an installed workflow, `announce`."""
    site = tmp_path_factory.mktemp("site")
    write_package(site, "announcements", ANNOUNCEMENTS.read_text(), ANNOUNCEMENTS_ENTRY_POINTS)
    prices = site / "prices.toml"
    prices.write_text(PRICES)
    environment = {
        "OPENAI_BASE_URL": stub_llm.url,
        "OPENAI_API_KEY": "test",
        "FLOTILLA_LLM_MODEL": "stub",
        "FLOTILLA_LLM_TIMEOUT_S": "10",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
        "PYTHONPATH": str(site),
        "FLOTILLA_LLM_PRICES": str(prices),
        "FLOTILLA_LLM_TOKENS_PER_PERSON_DAY": str(MANY_TOKENS),
        "FLOTILLA_LLM_TOKENS_PER_SERVICE_DAY": str(MANY_TOKENS),
    }
    statement = tmp_path_factory.mktemp("documents") / "statement.md"
    statement.write_text("# Statement\n\nThe documents say that every question of these tests finds this passage.\n")
    for running in _running("llm-fleet", environment):
        running.cli("documents", "add", str(statement))
        yield running


def _running(name: str, environment: dict[str, str]) -> Iterator[Fleet]:
    with open_folder(name) as home:
        started = Fleet(home, environment)
        try:
            started.up()
            yield started
        finally:
            started.down()
