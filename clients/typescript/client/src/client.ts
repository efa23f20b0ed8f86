import createClient, { type Client } from "openapi-fetch";

import { follow, type FollowOptions, sleep } from "./follow.js";
import { errorOf, FlotillaError, noAnswer } from "./problem.js";
import type { components, paths } from "./schema.js";
import { type TokenSource, tokenOf } from "./tokens.js";

type Schemas = components["schemas"];
export type Run = Schemas["Run"];
export type RunAccepted = Schemas["RunAccepted"];
export type RunRequest = Partial<Schemas["RunRequest"]>;

export interface Options {
  /** Where the gateway is: `https://flotilla.example.com`. */
  url: string;
  /** An API key, a JWT, or a function that returns one: `browserToken(…)` in a web page. */
  token: TokenSource;
  /** The person for whom a service with that right acts. */
  onBehalfOf?: string;
  fetch?: typeof fetch;
}

export interface CallOptions {
  signal?: AbortSignal;
}

/** What happens in a run, as its event stream has it. */
export type RunEvent =
  | { kind: "token"; id: string; data: { text: string } & Record<string, unknown> }
  | { kind: "reset" | "step" | "session_event"; id: string; data: Record<string, unknown> }
  | { kind: "done"; id: string; data: { status: Run["status"] } };

const TRIES = 5;
const LONGEST_WAIT_S = 60;
const OPEN: readonly Run["status"][] = ["pending", "running", "interrupted", "queued"];

/** A fleet's API as one caller. */
export class Flotilla {
  /** Every operation of the API, typed: `api.GET("/v1/runs/{run_id}", { params: { path: { run_id } } })`. */
  readonly api: Client<paths>;
  readonly #options: Options;

  constructor(options: Options) {
    this.#options = { ...options, url: options.url.replace(/\/+$/, "") };
    this.api = createClient<paths>({ baseUrl: this.#options.url, fetch: (request) => this.#call(request) });
  }

  /**
   * Starts a run in a session: a question, or a workflow with its input. A repetition after a lost answer starts no
   * second one: the request has an idempotency key, of your own where you give one.
   */
  async start(
    sessionId: string,
    request: RunRequest,
    options: CallOptions & { idempotencyKey?: string } = {},
  ): Promise<RunAccepted> {
    const { data } = await this.api.POST("/v1/sessions/{session_id}/runs", {
      params: {
        path: { session_id: sessionId },
        header: { "Idempotency-Key": options.idempotencyKey ?? crypto.randomUUID() },
      },
      body: request as Schemas["RunRequest"],
      ...signalOf(options),
    });
    return data as RunAccepted;
  }

  /** Starts a run and waits for its end, however long that takes. */
  async ask(
    sessionId: string,
    question: string | RunRequest,
    options: CallOptions & { idempotencyKey?: string } = {},
  ): Promise<Run> {
    const request = typeof question === "string" ? { query: question } : question;
    const { run_id } = await this.start(sessionId, request, options);
    return await this.ended(run_id, options);
  }

  /** A run as it is now. */
  async run(runId: string, options: CallOptions & { waitS?: number } = {}): Promise<Run> {
    const { data } = await this.api.GET("/v1/runs/{run_id}", {
      params: { path: { run_id: runId }, query: { wait_s: options.waitS ?? 0 } },
      ...signalOf(options),
    });
    return data as Run;
  }

  /** A run once it is over. */
  async ended(runId: string, options: CallOptions = {}): Promise<Run> {
    for (;;) {
      const run = await this.run(runId, { ...options, waitS: LONGEST_WAIT_S });
      if (!OPEN.includes(run.status)) return run;
    }
  }

  /** Asks a run to stop. */
  async cancel(runId: string, options: CallOptions = {}): Promise<void> {
    await this.api.POST("/v1/runs/{run_id}/cancel", {
      params: { path: { run_id: runId } },
      ...signalOf(options),
    });
  }

  /**
   * The events of a run until it is done, each once. When the connection breaks it goes on after the last event, on any
   * replica; stop listening by `break` or by the signal. An event's `id` is where another reader can go on.
   */
  async *follow(runId: string, options: FollowOptions = {}): AsyncGenerator<RunEvent, void, undefined> {
    const url = `${this.#options.url}/v1/runs/${encodeURIComponent(runId)}/events`;
    const open = (lastEventId: string | null, signal: AbortSignal): Promise<Response> => {
      const headers = { Accept: "text/event-stream", ...(lastEventId === null ? {} : { "Last-Event-ID": lastEventId }) };
      return this.#once(new Request(url, { headers, cache: "no-store", signal }));
    };
    for await (const { event, data, id } of follow(open, options)) {
      yield { kind: event, id: id ?? "", data: JSON.parse(data) as unknown } as RunEvent;
    }
  }

  /** An answer below 400. What may be repeated is, when the gateway asks for that or does not answer. */
  async #call(request: Request): Promise<Response> {
    const isSafe = request.method === "GET" || request.headers.has("Idempotency-Key");
    for (let tries = 1; ; tries++) {
      try {
        const response = await this.#once(request.clone());
        if (!response.ok) throw await errorOf(response);
        return response;
      } catch (error) {
        request.signal.throwIfAborted();
        const isRepeated = error instanceof FlotillaError && error.isTransient && isSafe && tries < TRIES;
        if (!isRepeated) throw error;
        await sleep(1000 * (error.retryAfterS ?? 0.25 * 2 ** tries), request.signal);
      }
    }
  }

  /** One answer, whatever it says; with another token where the gateway refuses the first. */
  async #once(request: Request): Promise<Response> {
    const token = await tokenOf(this.#options.token);
    const response = await this.#send(request.clone(), token);
    if (response.status !== 401 || typeof this.#options.token === "string") return response;
    const other = await tokenOf(this.#options.token, token);
    return other === token ? response : await this.#send(request, other);
  }

  async #send(request: Request, token: string): Promise<Response> {
    request.headers.set("Authorization", `Bearer ${token}`);
    const person = this.#options.onBehalfOf;
    if (person !== undefined) request.headers.set("Flotilla-On-Behalf-Of", encodeURIComponent(person.normalize("NFC")));
    try {
      return await (this.#options.fetch ?? fetch)(request);
    } catch (error) {
      request.signal.throwIfAborted();
      throw noAnswer(error);
    }
  }
}

function signalOf(options: CallOptions): { signal?: AbortSignal } {
  return options.signal ? { signal: options.signal } : {};
}
