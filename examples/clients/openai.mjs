// OpenAI's own client for Node on a fleet: FLOTILLA_URL, FLOTILLA_KEY. Prints what it got as one JSON object.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.FLOTILLA_URL}/openai/v1`,
  apiKey: process.env.FLOTILLA_KEY,
});
const model = "flotilla/rag";
const question = { role: "user", content: "Who inspects mooring lines?" };

const models = [];
for await (const one of client.models.list()) models.push(one.id);

const whole = await client.chat.completions.create({ model, messages: [question] });
const answer = whole.choices[0].message;

const chunks = await client.chat.completions.create({
  model,
  messages: [question, { role: "assistant", content: answer.content }, { role: "user", content: "And at night?" }],
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "";
let usage = null;
for await (const chunk of chunks) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

const first = await client.responses.create({ model, input: "Who inspects mooring lines?" });
const second = await client.responses.create({
  model,
  input: "And at night?",
  previous_response_id: first.id,
  stream: true,
});
const events = [];
for await (const event of second) events.push(event);
const id = events.at(-1).response.id;
const resumed = [];
for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: 3 })) resumed.push(event);

const background = await client.responses.create({ model, input: "Who?", background: true });
let polled = background;
while (["queued", "in_progress"].includes(polled.status)) polled = await client.responses.retrieve(background.id);
const ended = await client.responses.cancel(background.id);

const weather = { type: "function", name: "weather", parameters: { type: "object" } };
const calling = await client.responses.create({ model: "flotilla/chat", input: "How warm is it?", tools: [weather] });
const call = calling.output.find((item) => item.type === "function_call");
const afterCall = await client.responses.create({
  model: "flotilla/chat",
  input: [{ type: "function_call_output", call_id: call.call_id, output: "12 degrees" }],
  previous_response_id: calling.id,
  tools: [weather],
});

const file = await client.files.create({ file: await OpenAI.toFile(Buffer.from("# Lines"), "lines.md"), purpose: "user_data" });
const kept = await (await client.files.content(file.id)).text();
const deleted = await client.files.delete(file.id);

const refused = await client.chat.completions
  .create({ model, messages: [question], n: 2 })
  .catch((error) => ({ name: error.constructor.name, status: error.status, message: error.message }));

console.log(
  JSON.stringify({
    models,
    answer: answer.content,
    streamed,
    usage,
    response: first.output_text,
    sameSession: first.flotilla.session_id === events.at(-1).response.flotilla.session_id,
    resumedIsTheRest: JSON.stringify(resumed) === JSON.stringify(events.slice(4)),
    called: [call.name, JSON.parse(call.arguments)],
    afterCall: afterCall.output_text,
    file: [kept, deleted.deleted],
    background: [polled.status, ended.status],
    refused,
  }),
);
