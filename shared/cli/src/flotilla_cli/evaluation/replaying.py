"""Does the recorded runs of sessions again, and holds what comes of it against what was recorded."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flotilla_cli.evaluation.running import WAIT_S, wait_for_run_end
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.uploading import progress_bar

ENDED = "replay_ended"


@dataclass(frozen=True)
class Answered:
    """What one run came to."""

    status: str
    answer: str = ""
    cited: list[str] = field(default_factory=list)
    """Passages, in the order in which they are cited."""
    abstained: bool = False
    confidence: float = 0.0
    sentences: int = 0
    unsupported: int = 0
    model: str = ""
    tokens: int = 0
    amount: dict[str, float] = field(default_factory=dict)
    """What its model calls cost, by currency; empty where nothing is counted in money."""
    seconds: float | None = None
    """From its start to its end; None where it never began."""
    error: str = ""


@dataclass(frozen=True)
class Replayed:
    """A recorded run beside its replay."""

    run_id: str
    session_id: str
    question: str
    replay_run_id: str
    replay_session_id: str
    recorded: Answered
    replayed: Answered
    blocked_calls: list[dict[str, Any]]
    """Calls of tools that the recording does not have: they were refused."""
    changed_searches: list[dict[str, Any]]
    """Searches in other words than then, which found what was found then."""
    unused_calls: list[dict[str, Any]]
    """Recorded calls that were not made again."""
    blocked_effects: int


class ReplayRunner:
    """Replays runs on one fleet."""

    def __init__(self, gateway: GatewayClient, candidate: Mapping[str, Any], *, parallel: int) -> None:
        """`candidate` is the body of the request: what is other than in the recorded runs."""
        self._gateway = gateway
        self._candidate = candidate
        self._parallel = parallel

    def recorded_runs(self, session_id: str) -> list[Mapping[str, Any]]:
        """The questions of a session that are over, oldest first.

        Raises:
            NotFound: there is no such session.
        """
        self._gateway.get(f"/sessions/{session_id}")
        runs = self._gateway.each("/runs", "runs", session_id=session_id, workflow="rag")
        return [run for run in runs if run["finished_at"] and run["status"] != "cancelled"][::-1]

    def run(self, recorded: Sequence[Mapping[str, Any]], *, show_progress: bool) -> list[Replayed]:
        """Return the runs with their replays, in the same order."""
        with progress_bar(enabled=show_progress) as bar, ThreadPoolExecutor(self._parallel) as pool:
            try:
                each = pool.map(self._one, recorded)
                return list(bar.track(each, total=len(recorded), description="Replaying"))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, recorded: Mapping[str, Any]) -> Replayed:
        body = {**self._candidate, "wait_s": WAIT_S}
        run = wait_for_run_end(self._gateway, self._gateway.post(f"/runs/{recorded['run_id']}/replays", body))
        changes = [event["data"] for event in self._gateway.list_session_events(run["session_id"])]
        ends = [change["details"] for change in changes if change.get("change") == ENDED]
        return Replayed(
            run_id=recorded["run_id"],
            session_id=recorded["session_id"],
            question=recorded["query"],
            replay_run_id=run["run_id"],
            replay_session_id=run["session_id"],
            recorded=self._answered(recorded),
            replayed=self._answered(run),
            blocked_calls=[call for end in ends for call in end["blocked_calls"]],
            changed_searches=[call for end in ends for call in end["changed_searches"]],
            unused_calls=[call for end in ends for call in end["unused_calls"]],
            blocked_effects=sum(end["blocked_effects"] for end in ends),
        )

    def _answered(self, run: Mapping[str, Any]) -> Answered:
        result, error = run.get("result") or {}, run.get("error") or {}
        usage, statements = result.get("usage") or {}, result.get("statements") or []
        return Answered(
            status=run["status"],
            answer=result.get("answer") or "",
            cited=[source["passage_id"] for source in result.get("sources") or []],
            abstained=bool(result.get("abstained")),
            confidence=float(result.get("confidence") or 0.0),
            sentences=len(statements),
            unsupported=sum(1 for one in statements if one.get("supported") is False),
            model=result.get("model") or "",
            tokens=int(usage.get("input_tokens") or 0) + int(usage.get("output_tokens") or 0),
            amount=self._cost_of(run),
            seconds=_seconds(run),
            error=f"{error.get('type', '')}: {error.get('message', '')}" if error else "",
        )

    def _cost_of(self, run: Mapping[str, Any]) -> dict[str, float]:
        rows = self._gateway.get("/spend", by="run", run_id=run["run_id"], since=run["created_at"])["spend"]
        return {row["currency"]: float(row["amount"]) for row in rows}


def _seconds(run: Mapping[str, Any]) -> float | None:
    if not run.get("started_at") or not run.get("finished_at"):
        return None
    began, ended = (datetime.fromisoformat(run[name]) for name in ("started_at", "finished_at"))
    return (ended - began).total_seconds()
