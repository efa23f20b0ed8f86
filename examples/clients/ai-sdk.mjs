// The Vercel AI SDK on a fleet: FLOTILLA_URL, FLOTILLA_KEY; FLOTILLA_WORKFLOW names one that returns a title and pages.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const fleet = createOpenAICompatible({
  name: "flotilla",
  baseURL: `${process.env.FLOTILLA_URL}/openai/v1`,
  apiKey: process.env.FLOTILLA_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});

const whole = await generateText({ model: fleet("flotilla/rag"), prompt: "Who inspects mooring lines?" });

const stream = streamText({
  model: fleet("flotilla/rag"),
  messages: [
    { role: "user", content: "Who inspects mooring lines?" },
    { role: "assistant", content: whole.text },
    { role: "user", content: "And at night?" },
  ],
});
let streamed = "";
for await (const text of stream.textStream) streamed += text;

const asked = [];
const weather = tool({
  description: "The temperature at a pier.",
  inputSchema: z.object({ pier: z.number() }),
  execute: async ({ pier }) => {
    asked.push(pier);
    return "12 degrees";
  },
});
const withTools = await generateText({
  model: fleet("flotilla/chat"),
  prompt: "How warm is it?",
  tools: { weather },
  stopWhen: stepCountIs(3),
});
const streamedWithTools = streamText({
  model: fleet("flotilla/chat"),
  prompt: "How warm is it?",
  tools: { weather },
  stopWhen: stepCountIs(3),
});
const warm = await streamedWithTools.text;

const brief = process.env.FLOTILLA_WORKFLOW
  ? (
      await generateText({
        model: fleet(process.env.FLOTILLA_WORKFLOW),
        prompt: "harbours",
        output: Output.object({ schema: z.object({ title: z.string(), pages: z.number() }) }),
      })
    ).output
  : null;

console.log(
  JSON.stringify({
    answer: whole.text,
    finish: whole.finishReason,
    streamed,
    usage: await stream.usage,
    brief,
    withTools: withTools.text,
    warm,
    asked,
  }),
);
