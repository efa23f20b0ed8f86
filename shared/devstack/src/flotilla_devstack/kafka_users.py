"""The users of the stack's Kafka: a random password each, in a file of its own that its owner alone reads.

What each may do is not decided here: `python -m flotilla.install` gives the rights (`FLOTILLA_KAFKA_GRANT_RIGHTS`).
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

from flotilla_devstack.folders import write_atomically

ADMIN = "admin"
BROKER = "broker"
"""The node itself: what it sends to its own listeners."""
USERS = ("gateway", "outbox-relay", "audit-consumer", "backup")
"""Services that talk to Kafka, and the verbs of `flotilla backup`; the name of each is its user's."""
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def ensure_kafka_passwords(folder: Path) -> dict[str, str]:
    """Return the passwords of the users, those in `folder` and new ones for users without."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = [folder / user for user in (BROKER, ADMIN, *USERS)]
    for file in files:
        if not file.exists():
            write_atomically(file, secrets.token_urlsafe(24), mode=0o600)
    # Clients drop the end of the line, too, which an editor may have added.
    return {file.name: file.read_text(encoding="utf-8").rstrip("\r\n") for file in files}


def kafka_login(folder: Path, user: str) -> dict[str, str]:
    """Return the settings with which `user` logs in; none for a stack whose Kafka has no users."""
    if not (folder / user).exists():
        return {}
    return {
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_username": user,
        "kafka_password_file": str(folder / user),
    }


def user_properties(passwords: Mapping[str, str]) -> dict[str, str]:
    """Return what makes a broker ask for a login on each listener, and allow only what was granted."""
    return {
        "listener.security.protocol.map": "BROKER:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.broker.plain.sasl.jaas.config": _logins(passwords, passwords[BROKER]),
        "listener.name.controller.plain.sasl.jaas.config": _logins({BROKER: passwords[BROKER]}, passwords[BROKER]),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{BROKER};User:{ADMIN}",
    }


def _logins(accepted: Mapping[str, str], own: str) -> str:
    users = " ".join(f'user_{user}="{password}"' for user, password in accepted.items())
    return f'{_PLAIN} required username="{BROKER}" password="{own}" {users};'
