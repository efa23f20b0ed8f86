"""A fleet and a browser of one's own, for what is not a test: screenshots, benchmarks."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.browser.chromium import running_chromium
from tests.browser.console import Console
from tests.e2e.fleet import Fleet

ENVIRONMENT = {
    "OPENAI_API_KEY": "",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    "FLOTILLA_BUS_MIN_IDLE_MS": "2000",
    "FLOTILLA_SESSION_VISIBILITY": "tenant",
    "FLOTILLA_SESSION_OPERATORS": "operator,admin",
}


@contextmanager
def running_console() -> Iterator[Console]:
    """The console of a fleet with the built-in model, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="flotilla-console-") as folder:
        home = Path(folder)
        home.chmod(0o711)  # PostgreSQL runs as another user where this runs as root
        fleet = Fleet(home, ENVIRONMENT)
        try:
            fleet.up()
            status = fleet.status()
            with running_chromium() as browser:
                yield Console(browser, fleet, status["url"], json.loads(Path(status["keys_file"]).read_text()))
        finally:
            fleet.down()
