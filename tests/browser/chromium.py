"""The machine's Chromium, driven by Playwright, which downloads none of its own here."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A small /dev/shm, as containers have, else ends a page in the middle.
    "--disable-dev-shm-usage",
)


def find_chromium() -> str:
    """The program's path."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError("the browser tests need Chromium: apt-get install chromium")


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A headless browser for as long as the block runs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(FLAGS), headless=True, timeout=120_000
        )
        try:
            yield browser
        finally:
            browser.close()
