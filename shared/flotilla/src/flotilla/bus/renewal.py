"""Keeps hold of entries whose handlers are still working: idle is not dead, but Redis counts from the read."""

from collections.abc import Sequence

from flotilla.bus.connection import Redis, ask

# For each id: renews it if the owner is still this consumer. Answers the ids that another one has taken (which a
# consumer that was paused must not steal back) or has finished. An id beyond the group's last delivered one is neither:
# the group was lost and made anew, and this consumer may be the only one that works on it.
_RENEW = """
local function parts(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end
local last_ms, last_seq
for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local facts = {}
  for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
  if facts['name'] == ARGV[1] then last_ms, last_seq = parts(facts['last-delivered-id']) end
end
local lost = {}
for i = 3, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if row and row[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    local ms, seq = parts(ARGV[i])
    if row or ms < last_ms or (ms == last_ms and seq <= last_seq) then lost[#lost + 1] = ARGV[i] end
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
