"""The users of the stack's Redis: a random password each, kept in a file that its owner alone reads.

What each may do is not decided here: `python -m flotilla.install` gives the rights to the users that the file names.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

ADMIN = "default"
USERS: Mapping[str, str] = {
    "gateway": "gateway",
    "workflow-worker": "workflow-worker",
    "research-agent": "research-agent",
    "writer-agent": "write-agent",
    "tool-gateway": "mcp-agent",
}
"""The user of each service that talks to Redis."""


def ensure_redis_passwords(file: Path, further: Iterable[str] = ()) -> dict[str, str]:
    """Return the passwords by user, those in `file` and new ones for users without; `further` are own agents' users."""
    kept = read_redis_passwords(file)
    users = (ADMIN, *USERS.values(), *further)
    passwords = kept | {user: kept.get(user) or secrets.token_urlsafe(24) for user in users}
    if passwords != kept:
        _write(file, json.dumps(passwords, indent=2) + "\n")
    return passwords


def read_redis_passwords(file: Path) -> dict[str, str]:
    """Return the passwords by user; none for a stack whose Redis has no users."""
    try:
        found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def admin_only_acl(password: str) -> str:
    """Return a users.acl file with the administrator alone; it holds passwords as SHA-256."""
    return f"user {ADMIN} on ~* &* +@all #{sha256(password.encode()).hexdigest()}\n"


def write_initial_acl(file: Path, password: str) -> None:
    """Write `admin_only_acl` for a server that has no users yet."""
    if not file.exists():
        _write(file, admin_only_acl(password))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(text)
    fresh.replace(file)
