"""The trees of the log, for monitors: signed checkpoints and tiles, as https://c2sp.org/tlog-tiles lays them out.

They hold hashes and nothing else, of the whole fleet: any credentials will do, and some are needed.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Path, Query
from starlette.responses import Response

from flotilla.audit.log_tiles import find_tree_stamp, load_newest_tree, load_provable_tree, read_tiles
from flotilla.audit.tree import MAX_TILE_LEVEL, TILE_HEIGHT, TILE_WIDTH, entry_bundle, tile_nodes
from flotilla.contracts.errors import NotFound
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from gateway.auth.principal import EVERYONE
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.audit import LogStamp
from gateway.services import Caller, Wired

router = guarded_router("audit")
Partition: TypeAlias = Annotated[
    int, Path(ge=0, lt=SESSION_EVENTS_PARTITIONS, description="Of Kafka's topic of session events.")
]
_TILE = re.compile(r"(entries|[0-9])/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_OF_ALL = "private, max-age=31536000, immutable"
_NOTE = {"description": "A signed note.", "content": {"text/plain": {"schema": {"type": "string"}}}}
_BYTES = {
    "description": "The tile's bytes.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@router.get(
    "/v1/audit/logs/{partition}/checkpoint", response_class=Response, responses={200: _NOTE, **documented_errors(404)}
)
@allow(EVERYONE, for_others=True)
async def log_checkpoint(services: Wired, _caller: Caller, partition: Partition) -> Response:
    """Return a partition's checkpoint, a signed note with the tree's size and root: the newest that witnesses cosigned,
    or the newest where none did.
    """
    async with services.pool.acquire() as connection:
        tree = await load_provable_tree(connection, partition)
    if tree is None:
        raise NotFound(f"the tree of partition {partition} has no checkpoint yet")
    return Response(tree.note, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})


@router.get(
    "/v1/audit/logs/{partition}/tile/{tile:path}",
    response_class=Response,
    responses={200: _BYTES, **documented_errors(404)},
)
@allow(EVERYONE, for_others=True)
async def log_tile(
    services: Wired,
    _caller: Caller,
    partition: Partition,
    tile: Annotated[str, Path(description="`0/x001/234`, `1/000.p/17`, `entries/000`.", max_length=64)],
) -> Response:
    """Return hashes of a partition's tree, or the entries below them: the chain hashes of its events."""
    wanted = _wanted(tile)
    async with services.pool.acquire() as connection:
        tree = await load_newest_tree(connection, partition)
        if wanted is None or tree is None or wanted.end > tree.size >> (TILE_HEIGHT * wanted.level):
            raise NotFound(f"the tree of partition {partition} has no tile {tile}")
        stored = (await read_tiles(connection, partition, [(wanted.level, wanted.number)]))[wanted.level, wanted.number]
    content = (
        entry_bundle(stored, wanted.width) if wanted.is_entries else tile_nodes(wanted.level, stored, wanted.width)
    )
    return Response(content, media_type="application/octet-stream", headers={"Cache-Control": _OF_ALL})


@router.get("/v1/audit/logs/{partition}/stamp", response_model=LogStamp, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def log_stamp(
    services: Wired,
    _caller: Caller,
    partition: Partition,
    size: Annotated[int | None, Query(ge=1, lt=2**53, description="The oldest of a tree with as many entries.")] = None,
) -> LogStamp:
    """Return a time-stamp (RFC 3161) of a partition's checkpoint: the newest, or the oldest that covers `size`."""
    async with services.pool.acquire() as connection:
        stamp = await find_tree_stamp(connection, partition, size)
    if stamp is None:
        raise NotFound(f"the tree of partition {partition} has no such time-stamp")
    return LogStamp(
        size=stamp.size,
        checkpoint=stamp.note.decode(),
        response=b64encode(stamp.response).decode(),
        stamped_at=stamp.stamped_at,
    )


@dataclass(frozen=True, slots=True)
class _Tile:
    level: int
    number: int
    width: int
    is_entries: bool

    @property
    def end(self) -> int:
        """How many hashes its level has to have."""
        return self.number * TILE_WIDTH + self.width


def _wanted(path: str) -> _Tile | None:
    """Read a tile's path; None when it is no tile's, or another spelling of one."""
    if (match := _TILE.fullmatch(path)) is None:
        return None
    level, digits = match[1], match[2].replace("x", "").replace("/", "")
    width = int(match[3] or TILE_WIDTH)
    is_whole_or_partial = width < TILE_WIDTH or match[3] is None
    if not is_whole_or_partial or match[2].startswith("x000/") or (level != "entries" and int(level) > MAX_TILE_LEVEL):
        return None
    return _Tile(0 if level == "entries" else int(level), int(digits), width, level == "entries")
