"""Parked sessions of the outbox."""

from pydantic import ConfigDict

from gateway.schemas.common import Answer, RequestBody


class OutboxRedriveBody(RequestBody):
    """How a parked session goes on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"tombstone": True}]})

    tombstone: bool = False
    """Publish an event of kind `error` in the refused one's place."""


class OutboxRedriven(Answer):
    """The session goes on."""

    session_id: str
    waiting: int
    """Events on their way."""
