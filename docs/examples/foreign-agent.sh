#!/usr/bin/env bash
# An agent without Flotilla, in bash, and Node for JSON and signatures. It answers the tasks of agent `shout` with their text in capitals.
#   REDIS_URL=redis://user:password@127.0.0.1:6379/0 TICKET_KEY=tickets.pub docs/examples/foreign-agent.sh
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

# --- The agent: only what the fleet's worker signed is worked on, while somebody still waits for it.
keys=$(< "${TICKET_KEY:?Set TICKET_KEY to the file with the public keys that sign the tasks}")

answer_to() { # event, ticket: print the reply; fail if the ticket is not a signature over exactly these bytes, or too old
  printf %s "$1" | node -e '
    const { randomUUID, verify } = require("node:crypto")
    const [, ticket, keys] = process.argv
    const bytes = require("node:fs").readFileSync(0)
    const signature = Buffer.from(ticket.split(".")[1] ?? "", "base64url")
    const pems = keys.match(/-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----/g) ?? []
    if (!pems.some((pem) => verify(null, bytes, pem, signature))) process.exit(1)
    const task = JSON.parse(bytes).data
    if (!(Date.now() <= Date.parse(task.deadline) + 60_000)) process.exit(1)
    const { task_id, agent, tenant_id, session_id, attempt } = task
    const text = String(task.input.text ?? "").toUpperCase()
    console.log(JSON.stringify({
      specversion: "1.0", id: randomUUID(), type: "flotilla.task.replied.v1", source: `/agents/${agent}`,
      time: new Date().toISOString(), subject: session_id, tenant: tenant_id, taskid: task_id,
      data: {
        task_id, agent, tenant_id, session_id, attempt, status: "done", result: { text },
        events: [{ kind: "message", data: { role: "assistant", content: text } }],
      },
    }))' -- "$2" "$keys"
}

handle() { # entry id, event, ticket
  local reply
  if ! reply=$(answer_to "$2" "$3"); then
    echo "entry $1 has no valid ticket: passed over" >&2
    redis XACK "$stream" "$group" "$1"
    return
  fi
  # Reply and acknowledgement together, so that neither comes without the other.
  redis MULTI
  redis XADD "flotilla.replies.$agent" '*' event "$reply"
  redis XACK "$stream" "$group" "$1"
  redis EXEC
}

# Else every ticket would seem invalid.
command -v node > /dev/null || { echo 'Install Node 20 or newer: node is not in PATH' >&2; exit 2; }
[[ -z $password ]] || redis AUTH "$user" "$password"
redis SELECT "$database"
redis XGROUP CREATE "$stream" "$group" 0 MKSTREAM 2> /dev/null || true # it exists already
echo ready
while true; do
  # What a dead colleague left for 15 s comes first; then what is new. Either way: …, entry id, "event", event, "ticket", ticket.
  redis XAUTOCLAIM "$stream" "$group" "$me" 15000 0 COUNT 1
  [[ ${answer[2]-} == event ]] || redis XREADGROUP GROUP "$group" "$me" COUNT 1 BLOCK 1000 STREAMS "$stream" '>'
  [[ ${answer[2]-} == event ]] || continue
  handle "${answer[1]}" "${answer[3]}" "${answer[5]-}"
done
