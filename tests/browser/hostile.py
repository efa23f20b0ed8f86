"""Strings that want to be more than text (`corpus/`), and what would show that one of them became it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

FILES = ("markup", "markdown", "instructions")
STRINGS = [
    line
    for name in FILES
    for line in (Path(__file__).parent / "corpus" / f"{name}.txt").read_text().splitlines()
    if line.strip()
]
policy = pytest.mark.parametrize("bypass_csp", [False, True], ids=["with the policy", "without it"])
"""Each test runs twice: the pages have to hold by themselves, too."""

# Elements and attributes that only an attacker's text could have made.
_FOREIGN = r"""() => {
    const kinds = [
        "iframe", "object", "embed", "applet", "base", "form[action]", "link[href^=http]", "img", "video", "audio",
        "math", "marquee", "style:not([nonce])", "script:not([nonce]):not([src^='/assets/'])", "meta[http-equiv]",
        "portal",
        "use[href^=http]",
    ];
    const isAddress = (name) => ["href", "src", "action", "formaction", "xlink:href"].includes(name);
    const isUnsafe = /^[\s\u0000-\u001f]*(javascript|data|vbscript|file):/i;
    const found = [...document.body.querySelectorAll(kinds.join(", "))].map((one) => one.outerHTML.slice(0, 200));
    for (const one of document.body.querySelectorAll("*")) {
        for (const {name, value} of one.attributes) {
            if (name.startsWith("on") || (isAddress(name) && isUnsafe.test(value))) {
                found.push(`${one.tagName} ${name}=${value}`);
            }
        }
    }
    return found;
}"""

_KEEP_LOOKING = """() => {{
    const look = {look};
    window.__foreign = [];
    window.__looks = 0;
    new MutationObserver(() => {{
        window.__looks += 1;
        if (window.__foreign.length < 20) window.__foreign.push(...look());
    }}).observe(document.body, {{subtree: true, childList: true, attributes: true, characterData: true}});
}}"""


def inspect(page: Page) -> None:
    """What only an attacker's text could have made is not there."""
    assert page.evaluate(_FOREIGN) == []
    assert page.evaluate("({}).polluted") is None


def keep_looking(page: Page) -> None:
    """From now on, each change of the page is looked at: what stands there only for a moment counts, too."""
    page.evaluate(_KEEP_LOOKING.format(look=_FOREIGN))


def inspect_all_since(page: Page) -> None:
    """What only an attacker's text could have made was not there at any moment since `keep_looking`."""
    assert page.evaluate("window.__looks") > 0
    assert page.evaluate("window.__foreign") == []
    inspect(page)
