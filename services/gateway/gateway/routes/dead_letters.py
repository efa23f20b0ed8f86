"""Dead letters: entries of the bus that nobody could handle."""

from dataclasses import asdict
from typing import Annotated

import structlog
from fastapi import Query

from flotilla.contracts.dead_letters import DeadLetterRecord
from gateway.auth.principal import OPERATORS
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, read_time_cursor, time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.common import STORABLE, ResourceId
from gateway.schemas.dead_letters import (
    DeadLetter,
    DeadLetterList,
    DeadLetterWithBody,
    Discarded,
    Redriven,
    StreamRedriven,
)
from gateway.services import Caller, Wired

router = guarded_router("dead letters")
Stream = Annotated[str, Query(min_length=1, max_length=200, description="Of this stream."), STORABLE]
log = structlog.get_logger(__name__)


@router.get("/v1/dead-letters", response_model=DeadLetterList, responses=documented_errors())
@allow(OPERATORS)
async def list_dead_letters(
    *,
    services: Wired,
    caller: Caller,
    stream: Annotated[str | None, Query(max_length=200, description="Only of this stream."), STORABLE] = None,
    closed_too: Annotated[bool, Query(description="Also those that were redriven or discarded.")] = False,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> DeadLetterList:
    """List dead letters that wait for a person, newest first."""
    created_at, dead_letter_id = read_time_cursor(cursor)
    before = (created_at, dead_letter_id) if created_at is not None and dead_letter_id is not None else None
    found = await services.dead_letters.list_dead_letters(
        caller.tenant_id, stream=stream, closed_too=closed_too, before=before, limit=limit
    )
    letters = [DeadLetter.model_validate(letter) for letter in found]
    return DeadLetterList(dead_letters=letters, next_cursor=_next(found, limit))


def _next(found: list[DeadLetterRecord], limit: int) -> str | None:
    return time_cursor(found[-1].created_at, found[-1].dead_letter_id) if len(found) == limit else None


@router.get("/v1/dead-letters/{dead_letter_id}", response_model=DeadLetterWithBody, responses=documented_errors(404))
@allow(OPERATORS)
async def get_dead_letter(services: Wired, caller: Caller, dead_letter_id: ResourceId) -> DeadLetterWithBody:
    """One dead letter: why it is one, and what it holds."""
    letter = await services.dead_letters.get_dead_letter(caller.tenant_id, dead_letter_id)
    return DeadLetterWithBody.model_validate({**asdict(letter.record), "body": letter.body, "fields": letter.fields})


@router.post("/v1/dead-letters/redrive", response_model=StreamRedriven, responses=documented_errors(413, 415))
@allow(OPERATORS)
async def redrive_stream(services: Wired, caller: Caller, stream: Stream) -> StreamRedriven:
    """Put all open dead letters of a stream back on it, oldest first."""
    redriven = await services.dead_letters.request_stream_redrive(services.redis, caller.tenant_id, stream)
    log.info("stream_redriven", stream=stream, redriven=redriven, by=caller.subject, tenant=caller.tenant_id)
    return StreamRedriven(stream=stream, redriven=redriven)


@router.post(
    "/v1/dead-letters/{dead_letter_id}/redrive",
    response_model=Redriven,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(OPERATORS)
async def redrive(services: Wired, caller: Caller, dead_letter_id: ResourceId) -> Redriven:
    """Put a dead letter back on its stream, byte for byte, once the cause is fixed."""
    entry_id = await services.dead_letters.request_redrive(services.redis, caller.tenant_id, dead_letter_id)
    log.info("dead_letter_redriven", dead_letter_id=dead_letter_id, by=caller.subject, tenant=caller.tenant_id)
    return Redriven(dead_letter_id=dead_letter_id, entry_id=entry_id)


@router.delete("/v1/dead-letters/{dead_letter_id}", response_model=Discarded, responses=documented_errors(404, 409))
@allow(OPERATORS)
async def discard(services: Wired, caller: Caller, dead_letter_id: ResourceId) -> Discarded:
    """Give a dead letter up."""
    await services.dead_letters.discard_dead_letter(caller.tenant_id, dead_letter_id)
    log.info("dead_letter_discarded", dead_letter_id=dead_letter_id, by=caller.subject, tenant=caller.tenant_id)
    return Discarded(dead_letter_id=dead_letter_id, discarded=True)
