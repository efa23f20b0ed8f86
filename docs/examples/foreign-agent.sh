#!/usr/bin/env bash
# An agent without Flotilla: bash and redis-cli. It answers the tasks of agent `shout` with their text in capitals.
#   REDIS_URL=redis://127.0.0.1:6379/0 docs/examples/foreign-agent.sh
set -euo pipefail

agent=shout
stream=flotilla.tasks.$agent
group=$agent-agents
me=$HOSTNAME-$$
redis() { redis-cli --raw -u "${REDIS_URL:?set it to the fleet\'s Redis}" "$@"; }

# Reply and acknowledgement in one script, so that neither comes without the other.
# KEYS: the task stream, the replies. ARGV: group, entry id, the task's event, the result's text, time, a new id.
reply='
local task = cjson.decode(ARGV[3]).data
local data = {task_id = task.task_id, agent = task.agent, tenant_id = task.tenant_id, session_id = task.session_id,
  attempt = task.attempt, status = "done", result = {text = ARGV[4]},
  events = {{kind = "message", data = {role = "assistant", content = ARGV[4]}}}}
if task.run_id ~= cjson.null then data.run_id = task.run_id end
if task.reply_to ~= cjson.null then data.reply_to = task.reply_to end
local event = {specversion = "1.0", id = ARGV[6], type = "flotilla.task.replied.v1", source = "/agents/" .. task.agent,
  subject = task.session_id, time = ARGV[5], tenant = task.tenant_id, taskid = task.task_id, data = data}
redis.call("XADD", KEYS[2], "*", "event", cjson.encode(event))
return redis.call("XACK", KEYS[1], ARGV[1], ARGV[2])'

handle() { # entry id, event
  local text
  text=$(redis EVAL 'return cjson.decode(ARGV[1]).data.input.text' 0 "$2")
  redis EVAL "$reply" 2 "$stream" flotilla.replies \
    "$group" "$1" "$2" "${text^^}" "$(date -u +%FT%TZ)" "$(cat /proc/sys/kernel/random/uuid)" > /dev/null
}

redis XGROUP CREATE "$stream" "$group" 0 MKSTREAM > /dev/null 2>&1 || true
echo ready
while true; do
  # What a dead colleague left for 15 s comes first; then what is new.
  entry=$(redis XAUTOCLAIM "$stream" "$group" "$me" 15000 0 COUNT 1 | sed -n '2,4p')
  [[ $entry == *event* ]] || entry=$(redis XREADGROUP GROUP "$group" "$me" COUNT 1 BLOCK 1000 STREAMS "$stream" '>' | sed 1d)
  [[ $entry == *event* ]] || continue
  handle "$(sed -n 1p <<< "$entry")" "$(sed -n 3p <<< "$entry")"
done
