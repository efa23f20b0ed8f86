"""Whether Temporal and Redis hold work of another fleet, which a restored one would meet."""

from itertools import islice

from temporalio.client import Client
from temporalio.service import RPCError

from flotilla.backup.settings import RestoreSettings
from flotilla.bus import AWAY, connect_redis
from flotilla.bus.connection import execute_redis_command
from flotilla.config import TemporalSettings, load_settings
from flotilla.contracts.errors import Refused, RetryLater
from flotilla.temporal import temporal_connection_options

_STREAMS = "flotilla.*"
_SHOWN = 5


async def refuse_work(settings: RestoreSettings) -> None:
    """Return if there is none, where the settings say to look.

    Raises:
        Refused: there is some; the message names it.
        RetryLater: a server does not answer.
    """
    if settings.temporal_address is not None:
        await _refuse_workflows(load_settings(TemporalSettings, temporal_address=settings.temporal_address))
    if settings.redis_url is not None:
        await _refuse_entries(settings.redis_url.get_secret_value())


async def _refuse_workflows(settings: TemporalSettings) -> None:
    try:
        client = await Client.connect(settings.temporal_address, **temporal_connection_options(settings))
        found = [one.id async for one in client.list_workflows("ExecutionStatus = 'Running'", limit=_SHOWN)]
    except (RPCError, RuntimeError) as error:
        raise RetryLater(f"Temporal at {settings.temporal_address} does not answer: {error}") from error
    if found:
        raise Refused(
            f"the fleet is not empty, so nothing was changed. Temporal's namespace {settings.temporal_namespace} has "
            f"open workflows: {', '.join(found)}. Name a new namespace; or leave FLOTILLA_TEMPORAL_ADDRESS out where "
            "Temporal was restored from a backup of its own"
        )


async def _refuse_entries(url: str) -> None:
    try:
        async with connect_redis(url, name="flotilla-restore") as redis:
            keys = await execute_redis_command(redis, "KEYS", _STREAMS)
            streams = [key.decode() for key in keys if await execute_redis_command(redis, "TYPE", key) == b"stream"]
            filled = [stream for stream in streams if await execute_redis_command(redis, "XLEN", stream)]
    except AWAY as error:
        raise RetryLater(f"Redis does not answer: {error}") from error
    if filled:
        raise Refused(
            "the fleet is not empty, so nothing was changed. Redis holds work of another fleet in "
            f"{', '.join(islice(sorted(filled), _SHOWN))}: name an empty database"
        )
