"""What a person has: a browser that is logged in, and everything it did that it should not have."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page

from tests.e2e.fleet import Fleet

TIMEOUT_MS = 40_000
T = TypeVar("T")
# Notes what gets in through the content security policy, and what it keeps out.
WATCH = """
window.__ran = [];
window.__violations = [];
for (const name of ["alert", "confirm", "prompt", "print"]) {
  window[name] = (...words) => { window.__ran.push([name, ...words]); };
}
document.addEventListener("securitypolicyviolation", (event) => {
  window.__violations.push([event.violatedDirective, event.blockedURI, event.sample]);
});
"""


@dataclass
class Watched:
    """A page's misdeeds."""

    page: Page
    origin: str
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Requests to other hosts."""

    def start(self) -> None:
        self.page.add_init_script(WATCH)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._logged)
        self.page.on("dialog", self._asked)
        # Of the whole browser: a window that a page opens, or a worker, asks in its name.
        self.page.context.on("request", lambda request: self._requested(request.url))
        self.page.on("websocket", lambda socket: self.elsewhere.append(socket.url))
        self.page.on("popup", lambda popup: self.elsewhere.append(f"window: {popup.url}"))

    def _asked(self, dialog: Dialog) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _logged(self, message: ConsoleMessage) -> None:
        # Chromium logs each answer of 400 and more; the pages show those themselves.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _requested(self, url: str) -> None:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != self.origin and parts.scheme not in ("blob", "about"):
            self.elsewhere.append(url)

    def check(self) -> None:
        """Fails if a script ran that should not, the policy had to step in, or a request left."""
        assert self.errors == []
        assert self.elsewhere == []
        assert self.page.evaluate("window.__ran") == []
        assert self.page.evaluate("window.__violations") == []


@dataclass
class Console:
    """The console of one fleet."""

    browser: Browser
    fleet: Fleet
    url: str
    keys: dict[str, str]
    contexts: list[BrowserContext] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)

    def visitor(self, **options: Any) -> Page:
        """A page of a browser of its own, logged in as nobody."""
        context = self.browser.new_context(
            base_url=self.url, **{"viewport": {"width": 1440, "height": 900}, "locale": "en-GB", **options}
        )
        context.set_default_timeout(TIMEOUT_MS)
        self.contexts.append(context)
        page = context.new_page()
        watched = Watched(page, self.url)
        watched.start()
        self.watched.append(watched)
        return page

    def person(self, name: str = "alice", **options: Any) -> Page:
        """A page of a browser of its own, logged in as `name`."""
        page = self.visitor(**options)
        answer = page.context.request.post(
            "/auth/login", data={"key": self.keys[name]}, headers={"X-Flotilla-Console": "1", "Origin": self.url}
        )
        assert answer.status == 204, answer.text()
        return page

    def api(self, name: str = "alice") -> httpx.Client:
        """The API as `name`."""
        headers = {"Authorization": f"Bearer {self.keys[name]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def check(self) -> None:
        """Fails if any page misbehaved."""
        for watched in self.watched:
            watched.check()

    def close(self) -> None:
        """Closes what the test opened."""
        self.watched.clear()
        while self.contexts:
            self.contexts.pop().close()


def until(look: Callable[[], T | None], timeout_s: float = 60.0, every_s: float = 0.2) -> T:
    """The first truthy answer of `look`."""
    deadline = time.monotonic() + timeout_s
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s; last seen: {found!r}"
        time.sleep(every_s)


def submitted(api: httpx.Client, **body: Any) -> str:
    """The id of an action that waits in the inbox."""
    answer = api.post("/v1/actions", json={"action": "echo", "description": "A trial", "risk_level": "high", **body})
    assert answer.status_code == 202, answer.text
    action_id = cast("str", answer.json()["action_id"])
    until(lambda: api.get(f"/v1/approvals/{action_id}").status_code == 200)
    return action_id


def answered(api: httpx.Client, session_id: str, query: str) -> dict[str, Any]:
    """A question's run, once it is over."""
    answer = api.post(f"/v1/sessions/{session_id}/runs", json={"query": query})
    assert answer.status_code == 202, answer.text
    run_id = answer.json()["run_id"]

    def ended() -> dict[str, Any] | None:
        run = cast("dict[str, Any]", api.get(f"/v1/runs/{run_id}").json())
        return run if run["status"] not in ("pending", "running", "interrupted") else None

    run = until(ended)
    assert run["status"] == "success", run
    return run
