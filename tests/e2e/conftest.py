"""Two fleets, each brought up once for all end-to-end tests by `flotilla up`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet
from tests.support.otlp import TraceReceiver, trace_receiver


@pytest.fixture(scope="session")
def traces() -> Iterator[TraceReceiver]:
    """What the services of `fleet` export as traces."""
    with trace_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, traces: TraceReceiver) -> Iterator[Fleet]:
    """A fleet with the built-in model."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.url, "OTEL_BSP_SCHEDULE_DELAY": "200", "OPENAI_API_KEY": ""}
    yield from _running(tmp_path_factory.mktemp("fleet"), environment)


def _running(home: Path, environment: dict[str, str]) -> Iterator[Fleet]:
    started = Fleet(home, environment)
    try:
        started.up()
        yield started
    finally:
        started.down()
