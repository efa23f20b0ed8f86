"""The bus's functions inside Redis: what must look and act in one step.

An agent may call these and send no script of its own, which could hold Redis for everybody. Users that may load
functions load them (housekeeping does at each round); who may not waits until they are there. A change of the code is
a new library beside the old one, so that two versions of the fleet can run at once.
"""

from typing import Any

import structlog
from redis.exceptions import NoPermissionError, ResponseError

from flotilla.bus.connection import Redis, execute_redis_command
from flotilla.contracts.errors import RetryLater

RENEW_FUNCTION = "flotilla1_renew"
RETURN_ENTRY_FUNCTION = "flotilla1_give_back"
RETIRE_CONSUMER_FUNCTION = "flotilla1_retire"
COUNT_AFTER_FUNCTION = "flotilla1_count_after"
MAX_IDS = 1_000
"""How many entries one call may name: a call holds Redis for as long as it takes."""

_LUA_LIBRARY = f"""#!lua name=flotilla1
-- For each id: renews it if the owner is still this consumer. Answers the ids that another one has taken (which a
-- consumer that was paused must not steal back) or has finished: the entry stands in the stream and is pending no more.
-- An entry that is gone altogether may have been lost with the group, and then this consumer alone works on it.
redis.register_function('{RENEW_FUNCTION}', function(keys, args)
  if #keys ~= 1 or #args > {MAX_IDS} + 2 then return redis.error_reply('ERR one stream and {MAX_IDS} ids at most') end
  local lost = {{}}
  for i = 3, #args do
    local row = redis.call('XPENDING', keys[1], args[1], args[i], args[i], 1)[1]
    if row and row[2] == args[2] then
      redis.call('XCLAIM', keys[1], args[1], args[2], 0, args[i], 'JUSTID')
    elseif row or #redis.call('XRANGE', keys[1], args[i], args[i]) > 0 then
      lost[#lost + 1] = args[i]
    end
  end
  return lost
end)

-- Leaves an entry for a later claim without counting this delivery: the dependency was away, the entry is innocent.
redis.register_function('{RETURN_ENTRY_FUNCTION}', function(keys, args)
  local row = redis.call('XPENDING', keys[1], args[1], args[3], args[3], 1)[1]
  if row and row[2] == args[2] then
    redis.call('XCLAIM', keys[1], args[1], args[2], 0, args[3], 'IDLE', args[4], 'RETRYCOUNT', args[5], 'JUSTID')
  end
  return 0
end)

-- Removes a consumer only if nothing is pending for it: Redis would drop its pending entries with it.
redis.register_function('{RETIRE_CONSUMER_FUNCTION}', function(keys, args)
  for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', keys[1], args[1])) do
    local facts = {{}}
    for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
    if facts['name'] == args[2] then
      if facts['pending'] > 0 or facts['idle'] < tonumber(args[3]) then return 0 end
      redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], args[2])
      return 1
    end
  end
  return 0
end)

-- Entries after the group's last delivered one, where Redis can't say its lag any more; capped.
redis.register_function('{COUNT_AFTER_FUNCTION}', function(keys, args)
  return #redis.call('XRANGE', keys[1], '(' .. args[1], '+', 'COUNT', 10001)
end)
"""

log = structlog.get_logger(__name__)


async def load_redis_functions(redis: Redis) -> None:
    """Load the library unless it is there."""
    try:
        await execute_redis_command(redis, "FUNCTION", "LOAD", _LUA_LIBRARY)
    except ResponseError as error:
        if "already exists" not in str(error):
            raise
    else:
        log.info("bus_functions_loaded")


async def call_redis_function(redis: Redis, function: str, stream: str, *arguments: str | int) -> Any:
    """Call `function` on `stream`, loading the library first where it is missing.

    Raises:
        RetryLater: it is missing, and this user may not load it: housekeeping does within seconds.
    """
    try:
        return await execute_redis_command(redis, "FCALL", function, 1, stream, *arguments)
    except ResponseError as error:
        if "Function not found" not in str(error):
            raise
    try:
        await load_redis_functions(redis)
    except NoPermissionError as error:
        raise RetryLater("the bus's functions are not loaded: the workflow worker's housekeeping loads them") from error
    return await execute_redis_command(redis, "FCALL", function, 1, stream, *arguments)
