"""Puts the questions of a set to a fleet, several at a time."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flotilla_cli.errors import CliError
from flotilla_cli.evaluation.figures import AnsweredQuestion, QuestionOutcome
from flotilla_cli.evaluation.questions import EvaluationQuestion
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.uploading import progress_bar

WAIT_S = 60.0
PATIENCE_S = 600.0
_ENDED = frozenset(("success", "error", "timeout", "cancelled"))


class EvaluationRunner:
    """Asks one fleet."""

    def __init__(self, gateway: GatewayClient, *, depth: int, answers: bool, parallel: int) -> None:
        """`depth` is how many passages are looked at; `answers` asks the agents, too."""
        self._gateway = gateway
        self._depth = depth
        self._answers = answers
        self._parallel = parallel

    def run(self, questions: Sequence[EvaluationQuestion], *, show_progress: bool) -> list[QuestionOutcome]:
        """Return the outcomes in the order of the questions.

        Raises:
            CliError: a search failed; figures over the others would say nothing.
        """
        with progress_bar(enabled=show_progress) as bar, ThreadPoolExecutor(self._parallel) as pool:
            try:
                each = pool.map(self._one, questions)
                return list(bar.track(each, total=len(questions), description="Asking"))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, question: EvaluationQuestion) -> QuestionOutcome:
        began = time.monotonic()
        asked = " ".join((*question.after, question.question))
        passages = self._gateway.get("/documents/search", q=asked, k=self._depth)["passages"]
        seconds = time.monotonic() - began
        hits = [sorted(question.found_in(passage)) for passage in passages]
        answer = self._ask(question) if self._answers else None
        return QuestionOutcome(
            question.id, question.question, question.answerable, question.expected_count, hits, seconds, answer
        )

    def _ask(self, question: EvaluationQuestion) -> AnsweredQuestion:
        """The answer. Each question has a session of its own, so that none is another's follow-up."""
        session = f"eval-{uuid.uuid4().hex}"
        for earlier in question.after:
            self._finished(session, earlier)
        began = time.monotonic()
        run = self._finished(session, question.question)
        seconds, result = time.monotonic() - began, run.get("result") or {}
        sources = result.get("sources") or []
        said = [{"source": {"uri": ""}, "text": result.get("answer") or ""}]
        cited = [{"source": source, "text": source.get("quote") or ""} for source in sources]
        usage, statements = result.get("usage") or {}, result.get("statements") or []
        return AnsweredQuestion(
            status=run["status"],
            cites=bool(sources),
            right=bool(sources) and any(question.found_in(one) for one in (*cited, *said)),
            confidence=float(result.get("confidence") or 0.0),
            seconds=seconds,
            tokens=int(usage.get("input_tokens") or 0) + int(usage.get("output_tokens") or 0),
            model=str(result.get("model") or ""),
            features=dict(result.get("features") or {}),
            sentences=len(statements),
            unsupported=sum(1 for one in statements if one.get("supported") is False),
        )

    def _finished(self, session: str, question: str) -> dict[str, Any]:
        """The run, at its end."""
        run: dict[str, Any] = self._gateway.post(f"/sessions/{session}/runs", {"query": question, "wait_s": WAIT_S})
        return wait_for_run_end(self._gateway, run)


def wait_for_run_end(gateway: GatewayClient, run: dict[str, Any]) -> dict[str, Any]:
    """The run, at its end.

    Raises:
        CliError: it took too long.
    """
    deadline = time.monotonic() + PATIENCE_S
    while run["status"] not in _ENDED:
        if time.monotonic() > deadline:
            raise CliError(
                f"run {run['run_id']} did not end in {PATIENCE_S:g} s: `flotilla runs get` shows how far it is",
                "is a worker there? flotilla agents list",
            )
        time.sleep(1)
        run = gateway.get(f"/runs/{run['run_id']}")
    return run
