import * as z from "zod";

import type { TaskContext } from "./context.js";
import { Refused } from "./errors.js";

/** Awaited, or not. */
type Maybe<T> = T | Promise<T>;

export interface Call {
  /** 32 hexadecimal digits: the same whenever this call is made again, for interfaces that take an idempotency key. */
  key: string;
  /** Aborted when the task's time is over, or nobody wants it. */
  signal: AbortSignal;
  /** Of the task that made the call: a tool may call others (`context.call`). */
  context: TaskContext;
}

export interface ToolOptions<In extends z.ZodType, Out> {
  /** What a model, and people who decide about a call, read. */
  description?: string;
  /** The arguments: an object. */
  input: In;
  /** Gates the tool: a call pauses the task until people have approved its arguments. The least risk; policy may raise it. */
  approval?: "low" | "medium" | "high";
  /** It only reads: a later run of the task calls it again, and nothing is stored. */
  repeatable?: boolean;
  /** What happens to a call that was begun and gave no answer. Default: `ask` people for a gated tool, else `again`. */
  onUnknown?: "again" | "fail" | "ask";
  run(args: z.output<In>, call: Call): Maybe<Out>;
}

export type Tool<In extends z.ZodType = z.ZodType, Out = unknown> = ToolOptions<In, Out>;
// eslint-disable-next-line -- the tools of an agent differ in their types
export type Tools = Record<string, Tool<any, any>>;

export interface AgentOptions<In extends z.ZodType, Out extends z.ZodType, T extends Tools> {
  /** As workflows ask for it: `run.ask("translate", …)`. */
  name: string;
  version?: string;
  /** Schemas of the task's input and the result: objects. They are published at registration. */
  input: In;
  output: Out;
  tools?: T;
  /** MCP servers or tools whose allowed tools are the agent's, too: `mcp__<server>__<tool>`. */
  mcp?: string[];
  /** Tasks that this process has in hand at a time. */
  concurrency?: number;
  /** How long one may take, unless the task says how long. */
  timeoutS?: number;
  /** The work. It may run more than once for one task; what it returns and records counts once. */
  run(context: TaskContext<T>, task: z.output<In>): Maybe<z.input<Out>>;
}

/** An agent: what it is called, what goes in and out, its tools, and its work. */
export class Agent<
  In extends z.ZodType = z.ZodType,
  Out extends z.ZodType = z.ZodType,
  T extends Tools = Tools,
> {
  readonly name: string;
  readonly options: AgentOptions<In, Out, T>;
  readonly tools: T;

  constructor(options: AgentOptions<In, Out, T>) {
    this.name = options.name;
    this.options = options;
    this.tools = options.tools ?? ({} as T);
  }

  /** What the sidecar has to know. Throws for a schema that has no form in JSON. */
  offer(): Record<string, unknown> {
    const { version = "1", concurrency = 8, timeoutS = 600, mcp = [], input, output } = this.options;
    return {
      name: this.name,
      version,
      concurrency,
      timeout_s: timeoutS,
      mcp,
      input_schema: jsonSchema(input, "input"),
      output_schema: jsonSchema(output, "output"),
      tools: Object.entries(this.tools).map(([name, tool]) => ({
        name,
        description: tool.description ?? "",
        input_schema: jsonSchema(tool.input, "input"),
        approval: tool.approval ?? null,
        repeatable: tool.repeatable ?? false,
        on_unknown: tool.onUnknown ?? null,
      })),
    };
  }
}

/** Makes an agent. */
export function agent<In extends z.ZodType, Out extends z.ZodType, T extends Tools = Record<never, never>>(
  options: AgentOptions<In, Out, T>,
): Agent<In, Out, T> {
  return new Agent(options);
}

/** Makes a tool: gives its arguments their types. */
export function tool<In extends z.ZodType, Out>(options: ToolOptions<In, Out>): Tool<In, Out> {
  return options;
}

/** The JSON schema of what goes in or comes out. */
export function jsonSchema(schema: z.ZodType, io: "input" | "output"): Record<string, unknown> {
  return z.toJSONSchema(schema, { io });
}

/** `value` as the schema has it; throws Refused, named `Invalid`, where it does not fit. */
export function checked<S extends z.ZodType>(schema: S, value: unknown, where: string): z.output<S> {
  const read = schema.safeParse(value);
  if (read.success) return read.data;
  throw new Refused(`${where}: ${z.prettifyError(read.error)}`, { name: "Invalid", cause: read.error });
}
