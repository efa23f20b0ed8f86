"""The state at event k of one very long session, asked as the gateway asks it: state and its JSON."""

import random
import time
from collections.abc import Iterator

from benchmarks.replay.ground import Ground, project, put
from flotilla.contracts.envelope import encode_event
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import SessionEventKind
from flotilla.eventstore import AgentEventStore, state_json_blocks
from tests.support.audit import Projected, event_at

SESSION = "long"
EVENTS = 100_000
_POINTS = (1, 1_000, 25_999, 50_000, 99_999, 100_000)
_WORDS = (__doc__ or "").split() + [name for name in dir(random) if name.islower()]
"""So that texts compress as texts do."""
_ADD_SESSION = (
    "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, head_seq) VALUES ('default', $1, 'x', $2)"
)


def _bodies() -> Iterator[tuple[str, bytes]]:
    """A conversation with tools: question, call, result, a variable set, answer, and again."""
    draw = random.Random(EVENTS)  # noqa: S311 - repeatable
    for seq in range(1, EVENTS + 1):
        kind, data = _event(seq, " ".join(draw.choices(_WORDS, k=24)))
        yield SESSION, encode_event(event_at(SESSION, seq, kind=kind, data=data))


def _event(seq: int, text: str) -> tuple[SessionEventKind, JsonObject]:
    call = f"call-{seq // 5}"
    match seq % 5:
        case 1:
            return "message", {"role": "user", "content": text}
        case 2:
            return "tool_call", {"tool": "search", "call_id": call, "args": {"query": text, "top_k": 5}}
        case 3:
            return "tool_result", {"tool": "search", "call_id": call, "ok": True, "duration_ms": 3.5, "result": text}
        case 4:
            return "state_change", {"change": "noted", "set": {f"note-{seq % 50}": text}}
        case _:
            return "message", {"role": "assistant", "content": text}


async def show_states(ground: Ground, standing: int, repeats: int) -> None:
    """Puts the session beside the others, projects it, and prints p50 and p99 at several points and at random ones.

    `standing` is how many events are projected already.
    """
    await put(ground, _bodies())
    await Projected(ground.database).execute(_ADD_SESSION, SESSION, EVENTS)
    await project(ground, standing + EVENTS)
    store = AgentEventStore(ground.pool)
    draw = random.Random(EVENTS)  # noqa: S311 - repeatable
    for seq in _POINTS:
        await _show(store, f"event {seq:,}", [seq] * (repeats // 4))
    await _show(store, "any event", [draw.randint(1, EVENTS) for _ in range(repeats)])


async def _show(store: AgentEventStore, where: str, seqs: list[int]) -> None:
    await _state_at(store, seqs[0])
    found = [await _state_at(store, seq) for seq in seqs]
    times = sorted(taken_ms for taken_ms, _ in found)
    largest_mb = max(size for _, size in found) / 1e6
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(
        f"state at {where:<13} of {EVENTS:,}  p50 {p50:6.2f} p99 {p99:6.2f} ms  (up to {largest_mb:.1f} MB)", flush=True
    )


async def _state_at(store: AgentEventStore, seq: int) -> tuple[float, int]:
    began = time.perf_counter()
    state = await store.state_at(SESSION, seq)
    size = sum(map(len, state_json_blocks(state)))
    taken_ms = (time.perf_counter() - began) * 1000
    assert state.at_seq == seq
    return taken_ms, size
