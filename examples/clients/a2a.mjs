// The A2A SDK for JavaScript on a fleet: FLOTILLA_URL, FLOTILLA_KEY; FLOTILLA_BINDING is JSONRPC or HTTP+JSON.
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
const client = await factory.createFromUrl(`${process.env.FLOTILLA_URL}/a2a/workflows/rag/.well-known/agent-card.json`, "");
const ask = (text, contextId = "", returnImmediately = false) => ({
  tenant: "",
  message: {
    messageId: randomUUID(),
    contextId,
    taskId: "",
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

console.log(
  JSON.stringify({
    answer: textOf(task.artifacts[0]),
    state: task.status.state,
    sameTask: read.id === task.id,
    streamed,
    states,
    listed: listed.tasks.length,
    card: extended.name,
    refused,
  }),
);
