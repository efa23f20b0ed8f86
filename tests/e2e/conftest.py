"""Two fleets, each brought up once for all end-to-end tests by `flotilla up`, and down after the last of them: their
processes look for work all the time, which slows the tests of others."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flotilla.agent.template import write_agent
from tests.e2e.fleet import Fleet
from tests.e2e.signing import Root
from tests.e2e.stub_endpoint import StubEndpoint, stub_endpoint
from tests.support.otlp import TraceReceiver, trace_receiver
from tests.support.packages import (
    ANNOUNCEMENTS,
    ANNOUNCEMENTS_ENTRY_POINTS,
    CHOOSING,
    CHOOSING_ENTRY_POINTS,
    write_package,
)
from tests.support.scratch import open_folder

HERE = Path(__file__).parent
CLOCK = HERE / "clock_agent.py"
TIME_SERVER = str(Path(sys.executable).parent / "mcp-server-time")
MANY_TOKENS = 10**9
POLICY = """
version = "1"
extends = "builtin:local"
[actions."mcp.time.get_current_time"]
risk = "low"
# end
"""
PRICES = """
currency = "EUR"
[[prices]]
model = "stub"
valid_from = 2020-01-01
input = 1000
cached_input = 1000
output = 1000
[[prices]]
model = "stub-next"
valid_from = 2020-01-01
input = 500
cached_input = 500
output = 500
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
def llm_fleet(
    tmp_path_factory: pytest.TempPathFactory, stub_llm: StubEndpoint, traces: TraceReceiver
) -> Iterator[Fleet]:
    """A fleet whose writer asks `stub_llm`, with short time-outs and a quick takeover of a dead peer's work.
    Its worker has installed workflows: `announce`, and those that ask people. Its tool gateway has the MCP server
    `time`, of which one tool asks nobody."""
    site = tmp_path_factory.mktemp("site")
    write_package(site, "announcements", ANNOUNCEMENTS.read_text(), ANNOUNCEMENTS_ENTRY_POINTS)
    write_package(site, "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)
    prices = site / "prices.toml"
    prices.write_text(PRICES)
    servers, policy = site / "servers.json", site / "policy.toml"
    servers.write_text(json.dumps({"mcpServers": {"time": {"command": TIME_SERVER, "risk": "low"}}}))
    policy.write_text(POLICY)
    environment = {
        "OPENAI_BASE_URL": stub_llm.url,
        "OPENAI_API_KEY": "test",
        "FLOTILLA_LLM_MODEL": "stub",
        "FLOTILLA_LLM_REPLAY_MODELS": "stub-next,flotilla-extractive-1",
        "FLOTILLA_LLM_TIMEOUT_S": "10",
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "FLOTILLA_MCP_SERVERS_FILE": str(servers),
        "FLOTILLA_APPROVAL_POLICY": str(policy),
        "PYTHONPATH": str(site),
        "FLOTILLA_LLM_PRICES": str(prices),
        "FLOTILLA_LLM_TOKENS_PER_PERSON_DAY": str(MANY_TOKENS),
        "FLOTILLA_LLM_TOKENS_PER_SERVICE_DAY": str(MANY_TOKENS),
    }
    statement = tmp_path_factory.mktemp("documents") / "statement.md"
    statement.write_text("# Statement\n\nThe documents say that every question of these tests finds this passage.\n")
    agents = tmp_path_factory.mktemp("agents")
    for running in _running("llm-fleet", environment, _chat_agent(agents), _clock_agent(agents)):
        running.cli("documents", "add", str(statement))
        yield running


def _chat_agent(folder: Path) -> Path:
    """The agent `chat`, as docs/openai.md has it."""
    page = (HERE.parents[1] / "docs/openai.md").read_text(encoding="utf-8")
    (main,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "serve_agent" in code]
    return _agent("chat", main, folder)


def _clock_agent(folder: Path) -> Path:
    """The agent `clock`: asks the model, and a tool of the MCP server `time`."""
    return _agent("clock", CLOCK.read_text(encoding="utf-8"), folder)


def _agent(name: str, main: str, folder: Path) -> Path:
    agent = folder / f"{name}-agent"
    write_agent(name, agent)
    (agent / f"{name}_agent/main.py").write_text(main)
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o711)  # agents run as users of their own
    return agent


def _running(name: str, environment: dict[str, str], *agents: Path) -> Iterator[Fleet]:
    with open_folder(name) as home:
        started = Fleet(home, environment, agents=agents)
        try:
            started.up()
            yield started
        finally:
            started.down()
