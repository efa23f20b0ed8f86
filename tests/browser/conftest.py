"""One fleet and one browser for all browser tests; a fresh context for each person in each of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from flotilla_devstack.ports import free_port
from gateway.console_files import FOLDER
from tests.browser.chromium import running_chromium
from tests.browser.console import TIMEOUT_MS, Console, answered
from tests.e2e.fleet import Fleet
from tests.e2e.stub_endpoint import StubEndpoint, stub_endpoint
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider, oidc_provider
from tests.support.packages import SURVEYS, SURVEYS_ENTRY_POINTS, write_package

HANDBOOK = Path(__file__).parent / "handbook.md"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=TIMEOUT_MS)
    with running_chromium() as running:
        yield running


@pytest.fixture(scope="session")
def provider() -> Iterator[OidcProvider]:
    """Whom the fleet's gateway sends people to for login."""
    with oidc_provider() as running:
        yield running


@pytest.fixture(scope="session")
def model() -> Iterator[StubEndpoint]:
    """What the fleet's writer asks: it says what a test wants, as slowly as it wants."""
    with stub_endpoint() as running:
        yield running


@pytest.fixture(scope="session")
def page_port() -> int:
    """Where a product's own page is served, whose origin the gateway lists."""
    return free_port()


@pytest.fixture(scope="session")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider, model: StubEndpoint, page_port: int
) -> Iterator[Fleet]:
    """The whole stack, as `flotilla up` starts it, with a login by OpenID provider beside the one by key."""
    assert (FOLDER / "index.html").is_file(), "the console is not built: make console"
    port = free_port()
    site = tmp_path_factory.mktemp("site")
    write_package(site, "surveys", SURVEYS.read_text(), SURVEYS_ENTRY_POINTS)
    environment = {
        "PYTHONPATH": str(site),
        "FLOTILLA_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "FLOTILLA_CORS_ORIGINS": f"http://localhost:{page_port}",
        "FLOTILLA_OIDC_ISSUER": provider.url,
        "FLOTILLA_OIDC_AUDIENCE": "api",
        "FLOTILLA_OIDC_CLIENT_ID": CLIENT_ID,
        "FLOTILLA_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "FLOTILLA_LOGIN_REQUESTS_PER_S": "200",
        "FLOTILLA_TRACE_URL_TEMPLATE": "http://127.0.0.1:9/trace/{trace_id}",
        "OPENAI_BASE_URL": model.url,
        "OPENAI_API_KEY": "test",
        "FLOTILLA_LLM_MODEL": "stub",
        "FLOTILLA_LLM_TIMEOUT_S": "120",
        # What can't be handled is given up after five deliveries: here within ten seconds.
        "FLOTILLA_BUS_MIN_IDLE_MS": "2000",
        # A team that shares its sessions, as these tests act for several of its people.
        "FLOTILLA_SESSION_VISIBILITY": "tenant",
        "FLOTILLA_SESSION_OPERATORS": "operator,admin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    }
    started = Fleet(tmp_path_factory.mktemp("browser"), environment, port)
    try:
        started.up()
        started.cli("documents", "add", str(HANDBOOK))
        yield started
    finally:
        started.down()


@pytest.fixture(scope="session")
def _console(fleet: Fleet, browser: Browser) -> Console:
    status = fleet.status()
    return Console(browser, fleet, status["url"], json.loads(Path(status["keys_file"]).read_text()))


@pytest.fixture
def console(_console: Console) -> Iterator[Console]:
    """The console; what its pages did is checked at the end of each test."""
    yield _console
    try:
        _console.check()
    finally:
        _console.close()


@pytest.fixture(scope="session")
def told(_console: Console) -> str:
    """A session in which one question was answered."""
    with _console.api() as api:
        answered(api, "told", "Who inspects the mooring lines?")
    return "told"
