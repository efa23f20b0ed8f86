#!/usr/bin/env bash
# An agent without Flotilla, in bash alone. It answers the tasks of agent `shout` with their text in capitals.
#   REDIS_URL=redis://user:password@127.0.0.1:6379/0 docs/examples/foreign-agent.sh
set -euo pipefail

agent=shout
stream=flotilla.tasks.$agent
group=$agent-agents
me=$HOSTNAME-$$

# --- Redis: what a client library does, in 30 lines.
[[ ${REDIS_URL-} =~ ^redis://(([^:@]*):([^@]*)@)?([^:/@]+)(:([0-9]+))?(/([0-9]+))?$ ]] ||
  { echo 'Set REDIS_URL to the Redis of the fleet, such as redis://127.0.0.1:6379/0' >&2; exit 2; }
user=${BASH_REMATCH[2]:-default} password=${BASH_REMATCH[3]} database=${BASH_REMATCH[8]:-0}
exec 3<> "/dev/tcp/${BASH_REMATCH[4]}/${BASH_REMATCH[6]:-6379}"

redis() { # Send one command. The strings of its answer are in the array `answer`, nested lists flattened.
  local LC_ALL=C word command="*$#"$'\r\n' # lengths are in bytes
  for word; do command+="\$${#word}"$'\r\n'"$word"$'\r\n'; done
  printf %s "$command" >&3
  answer=()
  receive
}

receive() { # Add one value of Redis's protocol to `answer`; an error is printed and returned as 1.
  local head value count failed=0
  IFS=$'\r' read -r head <&3
  case $head in
    '$-1' | '*-1') ;;
    '$'*) IFS= read -r -N $((${head:1} + 2)) value <&3; answer+=("${value%$'\r\n'}") ;;
    '*'*) for ((count = ${head:1}; count > 0; count--)); do receive || failed=1; done ;;
    -*) echo "Redis: ${head:1}" >&2; failed=1 ;;
    *) answer+=("${head:1}") ;;
  esac
  return $failed
}

# --- The agent.
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
  redis EVAL 'return cjson.decode(ARGV[1]).data.input.text' 0 "$2"
  local text=${answer[0]}
  redis EVAL "$reply" 2 "$stream" flotilla.replies \
    "$group" "$1" "$2" "${text^^}" "$(date -u +%FT%TZ)" "$(cat /proc/sys/kernel/random/uuid)"
}

[[ -z $password ]] || redis AUTH "$user" "$password"
redis SELECT "$database"
redis XGROUP CREATE "$stream" "$group" 0 MKSTREAM 2> /dev/null || true # it exists already
echo ready
while true; do
  # What a dead colleague left for 15 s comes first; then what is new. Either way: …, entry id, "event", event.
  redis XAUTOCLAIM "$stream" "$group" "$me" 15000 0 COUNT 1
  [[ ${answer[2]-} == event ]] || redis XREADGROUP GROUP "$group" "$me" COUNT 1 BLOCK 1000 STREAMS "$stream" '>'
  [[ ${answer[2]-} == event ]] || continue
  handle "${answer[1]}" "${answer[3]}"
done
