import type * as z from "zod";

import { type Agent, checked, type Tools } from "./agent.js";
import { settings, TaskContext, type TaskData } from "./context.js";
import { FlotillaError, failureOf, Refused, TaskCancelled } from "./errors.js";
import { runningCall } from "./running.js";
import { Sidecar } from "./sidecar.js";

type Line =
  | { run: string; task: TaskData }
  | { over: string }
  | { call: string; run: string; tool: string; arguments: Record<string, unknown>; key: string };

export interface ServeOptions {
  /** Where the sidecar is, and its key: FLOTILLA_SIDECAR_URL and FLOTILLA_SIDECAR_KEY, unless given. */
  sidecar?: { url: string; key: string };
  /** Ends the service as SIGTERM does. */
  signal?: AbortSignal;
  /** How long the sidecar may be away before the program ends, to be started again. */
  giveUpAfterS?: number;
}

/** Works on the agent's tasks until SIGTERM, SIGINT or `signal`; then it takes no more, and finishes what it has. */
export async function serve<In extends z.ZodType, Out extends z.ZodType, T extends Tools>(
  agent: Agent<In, Out, T>,
  options: ServeOptions = {},
): Promise<void> {
  const { url, key } = options.sidecar ?? settings();
  const worker = new Worker(agent as unknown as Agent, new Sidecar(url, key));
  const leave = (): void => void worker.leave();
  process.on("SIGTERM", leave).on("SIGINT", leave);
  options.signal?.addEventListener("abort", leave, { once: true });
  if (options.signal?.aborted) leave();
  try {
    await worker.run(1000 * (options.giveUpAfterS ?? 60));
  } finally {
    process.off("SIGTERM", leave).off("SIGINT", leave);
    options.signal?.removeEventListener("abort", leave);
  }
}

class Worker {
  readonly #agent: Agent;
  readonly #sidecar: Sidecar;
  readonly #runs = new Map<string, { context: TaskContext; controller: AbortController }>();
  readonly #leaving = new AbortController();

  constructor(agent: Agent, sidecar: Sidecar) {
    this.#agent = agent;
    this.#sidecar = sidecar;
  }

  async run(giveUpAfterMs: number): Promise<void> {
    const offer = this.#agent.offer();
    const parent = process.ppid;
    let lastSeen = Date.now();
    for (let tries = 0; !this.#leaving.signal.aborted; tries++) {
      try {
        for await (const line of this.#sidecar.lines("/v1/worker", offer)) {
          [tries, lastSeen] = [0, Date.now()];
          this.#handle(line as Line);
        }
      } catch (error) {
        if (error instanceof Refused && error.name !== "Conflict") throw error; // it would be refused again
        // One that had started this program does not come back; one of its own does.
        if (process.ppid !== parent || Date.now() - lastSeen > giveUpAfterMs) throw error;
      } finally {
        this.#abandon();
      }
      await pause(Math.min(2000, 50 * 2 ** tries), this.#leaving.signal);
    }
  }

  /** Has the sidecar send no more tasks; its stream ends once those in hand are done. */
  async leave(): Promise<void> {
    this.#leaving.abort();
    await this.#sidecar.call("POST", "/v1/worker/leave", {}).catch(() => {
      // Nobody is there to be left: the stream is broken, too, and the loop ends.
    });
  }

  #handle(line: Line): void {
    if ("over" in line) this.#over(line.over);
    else if ("call" in line) void this.#call(line);
    else void this.#work(line.run, line.task);
  }

  async #work(key: string, task: TaskData): Promise<void> {
    const controller = new AbortController();
    const context = new TaskContext(this.#agent, task, key, this.#sidecar, controller.signal);
    this.#runs.set(key, { context, controller });
    const end = await this.#end(context, task);
    await this.#tell(`/v1/runs/${key}/end`, end);
  }

  async #end(context: TaskContext, task: TaskData): Promise<object> {
    const { name, options } = this.#agent;
    try {
      const made = await options.run(context, checked(options.input, task.input, `input of ${name}`));
      return { result: checked(options.output, made, `result of ${name}`) };
    } catch (error) {
      return { failure: failureOf(error) };
    }
  }

  async #call(line: Extract<Line, { call: string }>): Promise<void> {
    const answer = await this.#answer(line);
    await this.#tell(`/v1/runs/${line.run}/calls/${line.call}`, answer);
  }

  async #answer({ call, run, tool: name, arguments: given, key }: Extract<Line, { call: string }>): Promise<object> {
    try {
      const tool = Object.hasOwn(this.#agent.tools, name) ? this.#agent.tools[name] : undefined;
      const context = this.#runs.get(run)?.context;
      if (!tool || !context) throw new Refused(`there is no tool ${name}, or no task for it`, { name: "Forbidden" });
      const args: unknown = checked(tool.input as z.ZodType, given, `tool ${name}`);
      const { signal } = context;
      const work = async (): Promise<unknown> => (await tool.run(args, { key, signal, context })) as unknown;
      return { returned: (await runningCall.run(call, work)) ?? null };
    } catch (error) {
      return { failure: failureOf(error) };
    }
  }

  /** Answers the sidecar: with what went wrong, where it can't take the answer; with nothing, where it is over. */
  async #tell(path: string, body: object): Promise<void> {
    try {
      await this.#sidecar.call("POST", path, body);
    } catch (error) {
      if (error instanceof FlotillaError && error.name === "NotFound") return;
      const refusal = new Refused(`it can't be sent as JSON: ${String(error)}`, { name: "Invalid", cause: error });
      await this.#sidecar.call("POST", path, { failure: failureOf(refusal) }).catch((cause: unknown) => {
        console.error(`flotilla-agent: no answer to ${path}: ${String(cause)}`);
      });
    }
  }

  #over(key: string): void {
    this.#runs.get(key)?.controller.abort(new TaskCancelled("the run is over"));
    this.#runs.delete(key);
  }

  #abandon(): void {
    for (const key of [...this.#runs.keys()]) this.#over(key);
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done, { once: true });
  });
}
