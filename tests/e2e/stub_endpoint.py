"""The stub model endpoint as a process beside the fleet."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx


class StubEndpoint:
    """Where it listens (`url`), what it was asked, and what it does next."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = url.removesuffix("/v1")

    def requests(self) -> dict[str, int]:
        """How often each question was asked."""
        answer = httpx.get(f"{self._root}/stub/requests", timeout=5).json()
        return cast("dict[str, int]", answer["by_question"])

    @contextmanager
    def acting(self, *modes: str) -> Iterator[None]:
        """Answers with each mode in turn, the last one for good, until the block ends."""
        self._set(list(modes))
        try:
            yield
        finally:
            self._set(["ok"])

    def _set(self, modes: list[str]) -> Any:
        httpx.post(f"{self._root}/stub/modes", json={"modes": modes}, timeout=5).raise_for_status()


@contextmanager
def stub_endpoint() -> Iterator[StubEndpoint]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stub_llm", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield StubEndpoint(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(timeout=10)
        if process.stdout is not None:
            process.stdout.close()
