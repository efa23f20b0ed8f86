"""What an agent asks a worker for: the key of its task's session, instead of the fleet's root key."""

from dataclasses import dataclass

SESSION_KEYS_PATH = "/v1/session-keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeyAsked:
    """A request. The task's secret is not in it: `proof` shows that its sender knows the secret."""

    tenant_id: str
    session_id: str
    """The task's, or one that it was forked from."""
    task_id: str
    attempt: int
    public_key: str
    """The X25519 key that the process registered, in base64; the answer is encrypted for it."""
    nonce: str
    """Random, so that no answer fits a second request."""
    makes: bool
    """Whether a session without a key gets one now."""
    proof: str
    """HMAC-SHA256 over all of it, in hex; the key is the SHA-256 of the task's secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeyIssued:
    """What is encrypted in the answer."""

    person_key_id: str | None
    """Names the key of the session's person; None where the session has no key."""
    key: str | None
    """The session's, in base64; None where it was destroyed, or there is none."""
