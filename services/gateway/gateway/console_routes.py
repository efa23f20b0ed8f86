"""The console's own addresses, and which of them a login may lead to."""

import re
from urllib.parse import urlsplit

from gateway.console_pages import PAGES

HOME = "/"
MAX_LENGTH = 2000
_PATH = re.compile(rf"/(?:(?:{'|'.join(PAGES)})(?:/[^/\\]*)*)?")
_UNSAFE = re.compile(r"[\x00-\x20\\\x7f-\U0010ffff]")


def safe_console_path(wanted: str | None) -> str:
    """`wanted` if it is one of the console's own addresses, else its start.

    Browsers read `//host`, `/\\host` and paths with control characters inside as other sites' addresses.
    """
    if wanted is None or len(wanted) > MAX_LENGTH or _UNSAFE.search(wanted):
        return HOME
    parts = urlsplit(wanted)
    is_own = not parts.scheme and not parts.netloc and _PATH.fullmatch(parts.path) is not None
    return wanted if is_own and wanted.startswith("/") and not wanted.startswith("//") else HOME
