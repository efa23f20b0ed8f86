"""How people and groups are written where a session says who may read and write it.

A person is who issued the identity and the subject there: `alice` of one OpenID provider is not `alice` of another, nor
the `alice` of an API key.
"""

from flotilla.contracts.names import join_id_parts
from flotilla.contracts.visible_text import escape_invisible

LOCAL_ISSUER = "flotilla"
"""Of the identities of API keys."""
MAX_LENGTH = 256
_USER, _GROUP = "user", "group"


def is_identity_text(text: str) -> bool:
    """Whether `text` can be a subject or a group: 1 to 256 characters, all of them to be seen."""
    return 0 < len(text) <= MAX_LENGTH and text == escape_invisible(text.strip(), kept="")


def user_name(issuer: str, subject: str) -> str:
    """Return `user/<issuer>/<subject>`, with `%` and `/` of the parts escaped."""
    return join_id_parts(_USER, issuer, subject)


def group_name(issuer: str, group: str) -> str:
    """Return `group/<issuer>/<group>`, likewise."""
    return join_id_parts(_GROUP, issuer, group)


def parse_identity_name(name: str) -> tuple[str, str, str]:
    """Return the kind (`user` or `group`), the issuer, and the subject or group of a name made here."""
    kind, issuer, subject = (part.replace("%2F", "/").replace("%25", "%") for part in name.split("/"))
    return kind, issuer, subject
