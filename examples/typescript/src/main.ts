// Complaints settled by a model and four tools. Its answers are bought once, tools do things once, people approve refunds.
import { agent, Refused, serve, tool, type TaskContext } from "flotilla-agent";
import OpenAI from "openai";
import * as z from "zod";

const INSTRUCTIONS = "You settle complaints: look up the order, reserve a new piece, tell the customer, refund the order.";
const SHOP = process.env["SHOP_URL"] ?? "http://127.0.0.1:8901";

/** Asks the shop, which does what it is asked once per key. */
async function shop(path: string, key: string, given: unknown): Promise<Record<string, unknown>> {
  const options = { method: "POST", headers: { "Idempotency-Key": key }, body: JSON.stringify(given) };
  const answer = await fetch(`${SHOP}/${path}`, given === undefined ? {} : options);
  const said = (await answer.json()) as Record<string, unknown>;
  if (answer.status >= 500) throw new Error(`${path}: ${answer.status}`);
  if (!answer.ok) throw new Refused(`${path}: ${String(said["error"])}`);
  return said;
}

const tools = {
  find_order: tool({
    description: "Look up an order: its product, and its price in cents.",
    input: z.object({ order: z.string() }),
    repeatable: true,
    run: async ({ order }) => await shop(`orders/${order}`, "", undefined),
  }),
  reserve: tool({
    description: "Reserve a new piece of a product.",
    input: z.object({ product: z.string() }),
    run: async (asked, { key }) => String((await shop("reservations", key, asked))["receipt"]),
  }),
  write_to_customer: tool({
    description: "Send a message to the customer who ordered.",
    input: z.object({ order: z.string(), text: z.string() }),
    run: async (asked, { key }) => String((await shop("messages", key, asked))["receipt"]),
  }),
  refund: tool({
    description: "Pay money back. People approve each refund.",
    approval: "medium",
    input: z.object({ order: z.string(), cents: z.int().positive() }),
    run: async (asked, { key }) => String((await shop("refunds", key, asked))["receipt"]),
  }),
};

/** Lets the model choose tools until it answers. */
async function settle(ctx: TaskContext<typeof tools>, text: string): Promise<string> {
  const model = new OpenAI(ctx.openai());
  const messages: OpenAI.Chat.ChatCompletionMessageParam[] = [
    { role: "system", content: INSTRUCTIONS },
    { role: "user", content: text },
  ];
  for (;;) {
    const answer = await model.chat.completions.create({ model: "default", messages, tools: ctx.toolDefinitions() });
    const message = answer.choices[0]?.message;
    if (!message) throw new Error("the model gave no answer");
    messages.push(message);
    if (!message.tool_calls?.length) return message.content ?? "";
    const calls = message.tool_calls.map(async (call): Promise<OpenAI.Chat.ChatCompletionToolMessageParam> => {
      if (call.type !== "function") throw new Error(`the model chose a ${call.type}`);
      const content = await ctx.callForModel(call.function.name, call.function.arguments);
      return { role: "tool", tool_call_id: call.id, content };
    });
    messages.push(...(await Promise.all(calls)));
  }
}

await serve(
  agent({
    name: "refunds-typescript",
    version: "1",
    input: z.object({ text: z.string() }),
    output: z.object({ text: z.string() }),
    tools,
    run: async (ctx, task) => ({ text: await settle(ctx, task.text) }),
  }),
);
