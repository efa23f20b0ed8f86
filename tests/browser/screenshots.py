"""Writes a picture of each page into docs/screenshots: `make screenshots`."""

import sys
from pathlib import Path

import httpx
import redis
from playwright.sync_api import Page, expect

from tests.browser.console import Console, answered, submitted, until
from tests.browser.own_stack import running_console

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SAMPLES = Path(__file__).parents[2] / "docs" / "examples"
HANDBOOK = Path(__file__).parent / "handbook.md"
SIZE = {"width": 1280, "height": 800}
DESCRIPTION = "Tell the harbour office that the mooring lines of pontoon C are due"


def fill(console: Console) -> tuple[str, str]:
    """Something to see on every page; returns a run and an approval."""
    console.fleet.cli("documents", "add", str(HANDBOOK))
    with console.api() as api:
        answered(api, "harbour", "Who inspects the mooring lines?")
        run = answered(api, "harbour", "Where is diesel sold, and when?")
        fork = api.post("/v1/sessions/harbour/fork", json={"at_seq": 6, "session_id": "harbour-what-if"})
        fork.raise_for_status()
        submitted(api, args={"text": "Close pontoon B on Monday"}, description="Repairs", risk_level="medium")
        body = {"method": "POST", "url": "https://office.example/notes", "json": {"pontoon": "C", "due": "2026-12-07"}}
        action_id = submitted(api, action="http_request", description=DESCRIPTION, args=body)
        order = {"order_id": "o-1", "user_id": "alice", "amount": "12.50", "product_id": "rope"}
        api.post("/v1/orders", json=order).raise_for_status()
    with redis.Redis.from_url(console.fleet.redis_url) as client:
        client.xadd("flotilla.tasks.research", {"event": b"not an event"})
    with console.api() as api:
        until(lambda: api.get("/v1/dead-letters").json()["dead_letters"])
        until(lambda: sampled(api) > 4, timeout_s=120)
    return str(run["run_id"]), action_id


def sampled(api: httpx.Client) -> int:
    """At how many moments of the last hour the gateway looked."""
    lags = api.get("/v1/fleet/history").json()["series"]["stream_lag"]
    return sum(lag is not None for lag in lags)


def shoot(page: Page, path: str, name: str) -> None:
    """One picture, once nothing is loading any more."""
    page.goto(path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".loading, [aria-busy=true]")).to_have_count(0)
    page.wait_for_load_state("networkidle") if path == "/login" else page.wait_for_timeout(700)
    page.screenshot(path=FOLDER / f"{name}.png", animations="disabled", caret="hide")
    sys.stdout.write(f"docs/screenshots/{name}.png\n")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with running_console() as console:
        run_id, action_id = fill(console)
        pages = {
            "ask": "/ask?session=harbour",
            "approvals": "/approvals",
            "approval": f"/approvals/{action_id}",
            "runs": "/runs",
            "run": f"/runs/{run_id}",
            "sessions": "/sessions",
            "session": "/sessions/harbour?at=8",
            "documents": "/documents?q=diesel",
            "orders": "/orders",
            "fleet": "/fleet",
        }
        shoot(console.visitor(viewport=SIZE), "/login", "login")
        page = console.person("bob", viewport=SIZE)
        for name, path in pages.items():
            shoot(page, path, name)
        dark = console.person("bob", viewport=SIZE, color_scheme="dark")
        shoot(dark, pages["session"], "session-dark")
        narrow = console.person("bob", viewport={"width": 375, "height": 760})
        shoot(narrow, pages["approval"], "approval-narrow")
        console.close()


if __name__ == "__main__":
    main()
