"""Opens a session of many events in Chromium, several times, and scrolls through it.

python -m benchmarks.console [--events N] [--rounds N]

Open: from the start of the navigation until the newest event's row is drawn with what it says, in a browser whose cache
is empty (first round) and warm. Scroll: the gaps between frames while the list moves by the wheel for three seconds.
"""

import argparse
import statistics
import time
from typing import Any

from playwright.sync_api import Page

from flotilla.contracts.session_events import Message, StateChange, ToolCall, ToolResult
from tests.browser.console import Console
from tests.browser.own_stack import running_console
from tests.browser.written import event, write

SESSION = "long"
# When the row of the newest event shows what it says, by the page's own clock.
_NEWEST = """([last]) => {
    const row = document.querySelector(`[role=option][aria-posinset="${last}"] .summary`);
    return row && row.textContent.trim() ? performance.now() : false;
}"""
_SCROLL = """([seconds]) => new Promise((done) => {
    const list = document.querySelector("[role=listbox]");
    const gaps = [];
    const began = performance.now();
    let before = began;
    const step = (now) => {
        gaps.push(now - before);
        before = now;
        list.scrollTop -= 120;
        if (now - began < seconds * 1000) requestAnimationFrame(step);
        else done(gaps.slice(2));
    };
    list.scrollTop = list.scrollHeight;
    requestAnimationFrame(step);
})"""


def session_events(count: int) -> list[Any]:
    """Messages, calls, results and changes in turn, each of a few hundred bytes."""
    kinds = (
        lambda n: event("message", Message(role="user", content=f"Question {n}: " + "words " * 40)),
        lambda n: event("tool_call", ToolCall(tool="search", call_id=f"c{n}", args={"query": "words " * 20, "k": 5})),
        lambda n: event(
            "tool_result",
            ToolResult(tool="search", call_id=f"c{n - 1}", ok=True, duration_ms=3.5, result={"found": ["x" * 200]}),
        ),
        lambda n: event("state_change", StateChange(change="counted", set={"count": n})),
    )
    return [kinds[n % len(kinds)](n) for n in range(count)]


def opened(page: Page, count: int) -> float:
    """Milliseconds from the start of the navigation to the newest row."""
    page.goto(f"/sessions/{SESSION}", wait_until="commit")
    return float(page.wait_for_function(_NEWEST, arg=[count], polling="raf").json_value())


def measure(console: Console, count: int, rounds: int) -> None:
    began = time.perf_counter()
    write(console.fleet, SESSION, session_events(count))
    print(f"session of {count} events written in {time.perf_counter() - began:.1f} s")
    page = console.person()
    times = [opened(page, count) for _ in range(rounds)]
    print(f"open, nothing cached:      {times[0]:7.0f} ms")
    print(f"open, files cached, p50:   {statistics.median(times[1:]):7.0f} ms  (worst {max(times[1:]):.0f})")
    gaps = sorted(page.evaluate(_SCROLL, [3]))
    rows = page.locator("[role=option]").count()
    print(
        f"scroll: {len(gaps)} frames, gap p50 {gaps[len(gaps) // 2]:.1f} ms, p95 {gaps[int(len(gaps) * 0.95)]:.1f} ms,"
    )
    print(f"        worst {gaps[-1]:.1f} ms, over 50 ms: {sum(gap > 50 for gap in gaps)}; rows drawn at a time: {rows}")
    console.check()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    with running_console() as console:
        measure(console, arguments.events, arguments.rounds)
        console.close()


if __name__ == "__main__":
    main()
