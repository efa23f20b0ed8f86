"""The stub model endpoint as a process beside the fleet."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import httpx


class StubEndpoint:
    """Where it listens (`url`), what it was asked, and what it does next."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = url.removesuffix("/v1")

    def requests(self) -> dict[str, int]:
        """How often each question was asked."""
        return cast("dict[str, int]", self._asked()["by_question"])

    def request_times(self) -> dict[str, list[datetime]]:
        """When each question was asked, each time."""
        times: dict[str, list[float]] = self._asked()["at"]
        return {question: [datetime.fromtimestamp(at, UTC) for at in asked] for question, asked in times.items()}

    def _asked(self) -> dict[str, Any]:
        return cast("dict[str, Any]", httpx.get(f"{self._root}/stub/requests", timeout=60).json())

    @contextmanager
    def acting(self, *modes: str) -> Iterator[None]:
        """Answers with each mode in turn, the last one for good, until the block ends."""
        self._set(list(modes))
        try:
            yield
        finally:
            self._set(["ok"])

    @contextmanager
    def saying(self, answer: str, *, delay_s: float = 0.0) -> Iterator[None]:
        """Answers so, word by word, until the block ends."""
        self._set(["slow"], answer=answer, delay_s=delay_s)
        try:
            yield
        finally:
            self._set(["ok"])

    def follow(self, question: str, *turns: dict[str, object]) -> None:
        """Follow this script for a question, from now on: see `tests.support.stub_llm`."""
        self._set(["scripted"], script={question: list(turns)})

    def _set(self, modes: list[str], **more: object) -> Any:
        httpx.post(f"{self._root}/stub/modes", json={"modes": modes, **more}, timeout=60).raise_for_status()


@contextmanager
def stub_endpoint() -> Iterator[StubEndpoint]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stub_llm", "--port", "0", "--delay-s", "0.1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield StubEndpoint(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(timeout=10)
        if process.stdout is not None:
            process.stdout.close()
