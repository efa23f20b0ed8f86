// The A2A SDK for JavaScript on a fleet: FLOTILLA_URL, FLOTILLA_KEY; FLOTILLA_BINDING is JSONRPC or HTTP+JSON. FLOTILLA_ASKING is a
// workflow that asks people ("workflows/choose"), FLOTILLA_HOOK an address that the fleet may notify.
import { randomUUID } from "node:crypto";
import {
  ClientFactory,
  ClientFactoryOptions,
  DefaultAgentCardResolver,
  JsonRpcTransportFactory,
  RestTransportFactory,
} from "@a2a-js/sdk/client";

const authorized = (input, init = {}) => {
  const headers = new Headers(init.headers);
  headers.set("Authorization", `Bearer ${process.env.FLOTILLA_KEY}`);
  return fetch(input, { ...init, headers });
};
const factory = new ClientFactory(
  ClientFactoryOptions.createFrom(ClientFactoryOptions.default, {
    transports: [
      new JsonRpcTransportFactory({ fetchImpl: authorized }),
      new RestTransportFactory({ fetchImpl: authorized }),
    ],
    preferredTransports: [process.env.FLOTILLA_BINDING ?? "JSONRPC"],
    cardResolver: new DefaultAgentCardResolver({ fetchImpl: authorized }),
  }),
);
const clientOf = (agent) =>
  factory.createFromUrl(`${process.env.FLOTILLA_URL}/a2a/${agent}/.well-known/agent-card.json`, "");
const client = await clientOf("workflows/rag");
const ask = (text, contextId = "", returnImmediately = false, taskId = "") => ({
  tenant: "",
  message: {
    messageId: randomUUID(),
    contextId,
    taskId,
    role: 1,
    parts: [{ content: { $case: "text", value: text }, filename: "", mediaType: "text/plain" }],
    extensions: [],
    referenceTaskIds: [],
  },
  configuration: { acceptedOutputModes: [], returnImmediately },
});
const textOf = (artifact) =>
  artifact.parts.map((part) => (part.content?.$case === "text" ? part.content.value : "")).join("");

const task = await client.sendMessage(ask("Who inspects mooring lines?"));

let streamed = "";
const states = [];
for await (const { payload } of client.sendMessageStream(ask("And at night?", task.contextId))) {
  if (payload.$case === "artifactUpdate") {
    streamed = (payload.value.append ? streamed : "") + textOf(payload.value.artifact);
  } else {
    states.push(payload.value.status.state);
  }
}
const read = await client.getTask({ tenant: "", id: task.id });
const listed = await client.listTasks({ tenant: "", contextId: task.contextId, pageToken: "", status: 0 });
const extended = await client.getAgentCard();
const refused = await client
  .getTask({ tenant: "", id: "nothing" })
  .catch((error) => ({ name: error.constructor.name, message: error.message }));

// A workflow that asks people: its question is answered by a message, and another replica would continue the stream.
const INPUT_REQUIRED = 6;
const asking = process.env.FLOTILLA_ASKING ? await answerQuestion(await clientOf(process.env.FLOTILLA_ASKING)) : null;

async function answerQuestion(people) {
  const waiting = await people.sendMessage(ask('{"roles": []}'));
  const id = waiting.id;
  const hook = { tenant: "", taskId: id, id: "hook", url: process.env.FLOTILLA_HOOK, token: "" };
  await people.createTaskPushNotificationConfig(hook);
  const read = await people.getTaskPushNotificationConfig({ tenant: "", taskId: id, id: "hook" });
  const hooks = await people.listTaskPushNotificationConfig({ tenant: "", taskId: id, pageSize: 0, pageToken: "" });
  await people.deleteTaskPushNotificationConfig({ tenant: "", taskId: id, id: "hook" });
  const seen = [];
  for await (const { payload } of people.resubscribeTask({ tenant: "", id })) {
    if (payload.$case === "artifactUpdate") continue;
    seen.push(payload.value.status.state);
    if (seen.length === 1) await people.sendMessage(ask('{"supplier": "North"}', "", true, id));
  }
  const other = await people.sendMessage(ask('{"roles": []}'));
  const cancelled = await people.cancelTask({ tenant: "", id: other.id });
  return {
    waits: waiting.status.state === INPUT_REQUIRED,
    question: waiting.status.message.parts[0].content.value,
    hooks: [read.url === hook.url, hooks.configs.length],
    seen: [seen[0], seen.at(-1)],
    cancelled: cancelled.status.state,
  };
}

console.log(
  JSON.stringify({
    answer: textOf(task.artifacts[0]),
    state: task.status.state,
    sameTask: read.id === task.id,
    streamed,
    states,
    listed: listed.tasks.length,
    card: extended.name,
    asking,
    refused,
  }),
);
