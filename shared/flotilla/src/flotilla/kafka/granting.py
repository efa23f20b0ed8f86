"""Grants the fleet's Kafka users their rights, where the fleet's installer is Kafka's administrator, too."""

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.kafka.acl import KafkaPermission, Operation, kafka_permissions
from flotilla.kafka.topics import open_admin_client

# Codes of the protocol (Kafka protocol guide, CreateAcls).
_RESOURCES = {"topic": 2, "group": 3}
_OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
_LITERAL, _ALLOW = 3, 3
_ANY_HOST = "*"


async def grant_kafka_rights(settings: KafkaSettings, group: str | None = None) -> int:
    """Allow each service's user what `kafka_permissions` lists for the topics of `settings`; return how many rights.

    Safe to repeat. `group` is the audit consumer's, by default the contract's.

    Raises:
        RetryLater: Kafka does not answer, or can't grant anything now.
        ConfigurationError: it has no authorizer, or this login is no administrator's.
    """
    names = (settings.kafka_session_events_topic, settings.kafka_checkpoints_topic, *([group] if group else []))
    rights = [
        (user, right, operation)
        for user, granted in kafka_permissions(*names).items()
        for right in granted
        for operation in right.operations
    ]
    async with open_admin_client(settings) as admin:
        for user, right, operation in rights:
            await _grant(admin, user, right, operation)
    return len(rights)


async def _grant(admin: AIOKafkaAdminClient, user: str, right: KafkaPermission, operation: Operation) -> None:
    request = CreateAclsRequest(
        _RESOURCES[right.resource],
        right.name,
        _LITERAL,
        f"User:{user}",
        _ANY_HOST,
        _OPERATIONS[operation],
        _ALLOW,
    )
    # The client knows the request, but has no method for it.
    answer: Any = await admin._send_to_controller(request)  # noqa: SLF001
    for code, message in answer.creation_responses:
        if not code:
            continue
        kind = for_code(code)
        problem = f"Kafka grants {user} no {operation} on {right.resource} {right.name}: {message or kind.__name__}"
        if kind.retriable:
            raise RetryLater(problem)
        raise ConfigurationError(
            f"{problem} (FLOTILLA_KAFKA_GRANT_RIGHTS needs a broker with an authorizer, and an administrator's login)"
        )
