// The agent of the contract tests: the cases that the Python SDK's agents have, by `how`.
import { appendFileSync, readFileSync } from "node:fs";

import { agent, Refused, serve, tool } from "flotilla-agent";
import * as z from "zod";

class RuntimeError extends Error {}

const never = new Promise(() => undefined);
/** Writes what reached the outside into the file of the tests. */
const outside = (what) => appendFileSync(process.env.OUTSIDE, `${what}\n`);

const text = z.object({ text: z.string() });
const tools = {
  shout: tool({ input: text, run: ({ text }) => text.toUpperCase() }),
  explode: tool({
    input: text,
    run: ({ text }) => {
      throw new RuntimeError(text);
    },
  }),
  pay: tool({
    description: "Transfer money.",
    approval: "medium",
    input: z.object({ cents: z.int(), currency: z.string().default("EUR") }),
    run: ({ cents, currency }, { key }) => {
      outside(`paid ${cents} ${currency} ${key}`);
      return `paid ${cents}`;
    },
  }),
  charge: tool({
    input: z.object({ cents: z.int() }),
    run: ({ cents }, { key }) => {
      outside(`charged ${cents} ${key}`);
      return { receipt: cents };
    },
  }),
  twice: tool({ input: text, run: async ({ text }, { context }) => (await context.call("shout", { text })).repeat(2) }),
  settle: tool({ input: z.object({}), run: (_, { context }) => context.call("pay", { cents: 9 }) }),
  hang: tool({ input: z.object({}), onUnknown: "fail", run: () => (outside("hangs"), never) }),
  refuse: tool({
    input: z.object({}),
    run: () => {
      throw new Refused("not today");
    },
  }),
};

const ways = {
  forbidden: (ctx) => ctx.call("erase", {}),
  explode: (ctx, { text }) => ctx.tool("explode", { text }),
  record: (ctx) => ctx.record("message", { no: "content" }),
  slow: () => never,
  async model(ctx, { text }) {
    return (await completion(ctx, text)).choices[0].message.content;
  },
  async tokens(ctx, { text }) {
    await Promise.all([...text].map((letter) => ctx.emitToken(letter)));
    return text;
  },
  turns: async (ctx) => JSON.stringify(await ctx.turns()),
  pay: (ctx) => ctx.tool("pay", { cents: 5 }),
  swallow: (ctx) => ctx.tool("pay", { cents: 5 }).catch(() => "went on"),
  nested: (ctx, { text }) => ctx.tool("twice", { text }),
  settle: (ctx) => ctx.tool("settle", {}),
  environment: () => Object.keys(process.env).filter((name) => /^(FLOTILLA|OPENAI|OTEL)_/.test(name)).sort().join(),
  refuse: (ctx) => ctx.callForModel("refuse", "{}"),
  async once(ctx) {
    const { receipt } = await ctx.tool("charge", { cents: 7 });
    const answer = (await completion(ctx, "is it paid?")).choices[0].message.content;
    outside(`run ${process.pid}`);
    if (readFileSync(process.env.OUTSIDE, "utf8").split("run ").length === 2) await never;
    return `${receipt} ${answer}`;
  },
  unknown: (ctx) => ctx.tool("hang", {}),
  async cancelled(ctx) {
    await new Promise((aborted) => ctx.signal.addEventListener("abort", aborted));
    outside(`aborted ${ctx.signal.reason.name}`);
  },
  drains: async () => {
    outside("begun");
    await new Promise((done) => setTimeout(done, 300));
    return "finished";
  },
  crash: () => process.exit(3),
  number: () => 10n,
};

async function completion(ctx, content) {
  const { baseURL, apiKey } = ctx.openai();
  const answer = await fetch(`${baseURL}/chat/completions`, {
    method: "POST",
    headers: { Authorization: `Bearer ${apiKey}`, "Content-Type": "application/json" },
    body: JSON.stringify({ model: "default", messages: [{ role: "user", content }] }),
  });
  return await answer.json();
}

await serve(
  agent({
    name: "contract",
    version: "7",
    timeoutS: Number(process.env.TIMEOUT_S ?? 30),
    input: z.object({ text: z.string().default(""), how: z.string().default("well") }),
    output: z.object({ text: z.any() }),
    tools,
    async run(ctx, task) {
      await ctx.progress("begun");
      await ctx.record("state_change", { change: "begun" });
      const way = ways[task.how] ?? ((context, { text }) => context.tool("shout", { text }));
      return { text: await way(ctx, task) };
    },
  }),
);
