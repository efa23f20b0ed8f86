import type * as z from "zod";

import { type Agent, checked, jsonSchema, type Tool, type Tools } from "./agent.js";
import { FlotillaError, Refused } from "./errors.js";
import { runningCall } from "./running.js";
import type { Sidecar } from "./sidecar.js";

/** A task as the sidecar gives it. */
export interface TaskData {
  task_id: string;
  tenant_id: string;
  session_id: string;
  run_id: string | null;
  user_id: string | null;
  attempt: number;
  input: Record<string, unknown>;
}

/** An earlier question of the session, and its answer. */
export interface Turn {
  query: string;
  answer: string;
}

type Returned<T> = T extends Tool<z.ZodType, infer Out> ? Awaited<Out> : never;
type Given<T> = T extends Tool<infer In, unknown> ? z.input<In> : never;

/** What a task's function gets: whose work it is, and what the fleet does for it. Await each call. */
export class TaskContext<T extends Tools = Tools> {
  readonly taskId: string;
  readonly tenantId: string;
  readonly sessionId: string;
  readonly runId: string | null;
  /** The person at the root of the work. */
  readonly userId: string | null;
  /** The workflow's try, from 1; a redelivery is the same try. */
  readonly attempt: number;
  /** Aborted when the task's time is over, or nobody wants it. */
  readonly signal: AbortSignal;
  readonly #tools: T;
  readonly #sidecar: Sidecar;
  readonly #path: string;
  #text = "";
  #sending: Promise<void> | undefined;

  /** @internal */
  constructor(agent: Agent<z.ZodType, z.ZodType, T>, task: TaskData, key: string, sidecar: Sidecar, signal: AbortSignal) {
    this.taskId = task.task_id;
    this.tenantId = task.tenant_id;
    this.sessionId = task.session_id;
    this.runId = task.run_id;
    this.userId = task.user_id;
    this.attempt = task.attempt;
    this.signal = signal;
    this.#tools = agent.tools;
    this.#sidecar = sidecar;
    this.#path = `/v1/runs/${key}`;
  }

  /** Calls one of the agent's tools. What it returned is stored before it is used, so that a later run of the task gets
   * the same without calling it again; a gated one waits for people. */
  async tool<Name extends keyof T & string>(name: Name, args: Given<T[Name]>): Promise<Returned<T[Name]>> {
    return (await this.call(name, args as Record<string, unknown>)) as Returned<T[Name]>;
  }

  /** As `tool`, for names that the compiler does not know: those of MCP tools, or what a model chose. */
  async call(name: string, args: Record<string, unknown>): Promise<unknown> {
    const own = Object.hasOwn(this.#tools, name) ? this.#tools[name] : undefined;
    const given: unknown = own ? checked(own.input, args, `tool ${name}`) : args;
    const within = runningCall.getStore();
    const body = within === undefined ? { arguments: given } : { arguments: given, within };
    return (await this.#ask<{ returned: unknown }>(`/tools/${encodeURIComponent(name)}`, body)).returned;
  }

  /** The agent's own tools as chat completions take them. */
  toolDefinitions(): { type: "function"; function: { name: string; description: string; parameters: Record<string, unknown> } }[] {
    return Object.entries(this.#tools).map(([name, { description = "", input }]) => ({
      type: "function",
      function: { name, description, parameters: jsonSchema(input as z.ZodType, "input") },
    }));
  }

  /** Calls the tool that a model chose, and gives what it returned, or why it was refused, as text for the model. */
  async callForModel(name: string, json: string): Promise<string> {
    try {
      const returned = await this.call(name, argumentsIn(json));
      return typeof returned === "string" ? returned : JSON.stringify(returned ?? null);
    } catch (error) {
      if (error instanceof Refused && !ENDS_THE_TASK.has(error.name)) return `Error: ${error.message}`;
      throw error;
    }
  }

  /** What `new OpenAI(…)` takes: its chat completions are the fleet's model, and each answer is stored before it is used.
   * Ask for the model `default`. */
  openai(): { baseURL: string; apiKey: string; maxRetries: 0; timeout: number } {
    const hour = 3_600_000;
    return { baseURL: `${this.#sidecar.url}${this.#path}/openai/v1`, apiKey: this.#sidecar.key, maxRetries: 0, timeout: hour };
  }

  /** Adds an event to the session's log, once the task is done (or has failed): `message`, `state_change`, … */
  async record(kind: "message" | "tool_call" | "tool_result" | "state_change" | "error", data: object): Promise<void> {
    await this.#ask("/events", { kind, data });
  }

  /** Tells who waits that the task goes on. Throws TaskCancelled when nobody does any more. */
  async progress(text: string): Promise<void> {
    await this.#ask("/progress", { text });
  }

  /** Shows a piece of the answer to those who watch the run. Throws TaskCancelled when nobody wants it any more. */
  async emitToken(text: string): Promise<void> {
    this.#text += text;
    this.#sending ??= this.#send();
    await this.#sending;
  }

  /** Takes back what was shown of this task so far. */
  async discardTokens(): Promise<void> {
    await this.#sending;
    await this.#ask("/tokens/discard", {});
  }

  /** The last questions and answers of the session, oldest first. */
  async turns(limit = 10): Promise<Turn[]> {
    return (await this.#sidecar.call<{ turns: Turn[] }>("GET", `${this.#path}/turns?limit=${limit}`)).turns;
  }

  /** What was given while a request was under way goes with the next one. */
  async #send(): Promise<void> {
    try {
      while (this.#text !== "") {
        const text = this.#text;
        this.#text = "";
        await this.#ask("/tokens", { text });
      }
    } finally {
      this.#sending = undefined;
    }
  }

  async #ask<A = void>(path: string, body: unknown): Promise<A> {
    return await this.#sidecar.call<A>("POST", this.#path + path, body);
  }
}

/** Refusals that no other arguments change. */
const ENDS_THE_TASK = new Set(["ToolOutcomeUnknown", "ToolResultNotStored"]);

function argumentsIn(json: string): Record<string, unknown> {
  let given: unknown;
  try {
    given = JSON.parse(json === "" ? "{}" : json);
  } catch (cause) {
    throw new Refused(`the arguments are not JSON: ${String(cause)}`, { name: "Invalid", cause });
  }
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new Refused("the arguments are a JSON object", { name: "Invalid" });
  }
  return given as Record<string, unknown>;
}

/** The settings by which a program finds its sidecar. */
export function settings(): { url: string; key: string } {
  const { FLOTILLA_SIDECAR_URL: url, FLOTILLA_SIDECAR_KEY: key } = process.env;
  if (url && key) return { url, key };
  throw new FlotillaError(
    "set FLOTILLA_SIDECAR_URL and FLOTILLA_SIDECAR_KEY, or let `python -m flotilla.agent.sidecar` start this program",
  );
}
