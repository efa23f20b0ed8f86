"""Keeps hold of entries whose handlers are still working: idle is not dead, but Redis counts from the read."""

from collections.abc import Sequence

from flotilla.bus.connection import Redis, ask

# For each id: renews it if the owner is still this consumer. Answers the ids that another one has taken (which a
# consumer that was paused must not steal back) or has finished: the entry stands in the stream and is pending no more.
# An entry that is gone altogether may have been lost with the group, and then this consumer alone works on it.
_RENEW = """
local lost = {}
for i = 3, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if row and row[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  elseif row or #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) > 0 then
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

# Leaves an entry for a later claim without counting this delivery: the dependency was away, the entry is innocent.
_GIVE_BACK = """
local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if row and row[2] == ARGV[2] then
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
end
return 0
"""


async def renew(redis: Redis, stream: str, group: str, consumer: str, entry_ids: Sequence[str]) -> set[str]:
    """Renews what `consumer` still owns of `entry_ids`; gives those that another one took or finished."""
    lost = await ask(redis, "EVAL", _RENEW, 1, stream, group, consumer, *entry_ids)
    return {entry_id.decode() for entry_id in lost}


async def give_back(
    redis: Redis, stream: str, group: str, consumer: str, entry_id: str, *, idle_ms: int, deliveries: int
) -> None:
    """Leaves the entry pending, as if idle for `idle_ms` and delivered `deliveries` times."""
    await ask(redis, "EVAL", _GIVE_BACK, 1, stream, group, consumer, entry_id, idle_ms, deliveries)
