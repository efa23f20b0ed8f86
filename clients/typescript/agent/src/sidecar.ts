import { type ClientRequest, type IncomingMessage, request } from "node:http";

import { errorOf, type Failure, FlotillaError } from "./errors.js";

const SILENT_MS = 45_000;

/** The sidecar's API. A request waits as long as its answer takes: a tool or a model may need an hour. */
export class Sidecar {
  readonly url: string;
  readonly key: string;

  constructor(url: string, key: string) {
    this.url = url.replace(/\/+$/, "");
    this.key = key;
  }

  /** The answer's document; throws what the sidecar says went wrong. */
  async call<T = void>(method: "GET" | "POST", path: string, body?: unknown): Promise<T> {
    const response = await this.#open(method, path, body);
    const text = await textOf(response);
    check(response, text);
    return (text === "" ? undefined : JSON.parse(text)) as T;
  }

  /** The lines of an answer that goes on; an empty one, which says that the sidecar lives, is left out. */
  async *lines(path: string, body: unknown): AsyncGenerator<unknown, void, undefined> {
    const response = await this.#open("POST", path, body);
    if (response.statusCode !== 200) check(response, await textOf(response));
    response.setTimeout(SILENT_MS, () => response.destroy(new FlotillaError("the sidecar is silent")));
    response.setEncoding("utf8");
    let rest = "";
    try {
      for await (const piece of response as AsyncIterable<string>) {
        const parts = (rest + piece).split("\n");
        rest = parts.pop() ?? "";
        for (const line of parts) if (line !== "") yield JSON.parse(line);
      }
    } finally {
      response.destroy();
    }
  }

  async #open(method: string, path: string, body: unknown): Promise<IncomingMessage> {
    const headers: Record<string, string | number> = { Authorization: `Bearer ${this.key}`, Connection: "close" };
    const content = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    if (content) Object.assign(headers, { "Content-Type": "application/json", "Content-Length": content.length });
    return await new Promise((resolve, reject) => {
      const asked: ClientRequest = request(this.url + path, { method, headers, agent: false }, resolve);
      asked.on("error", (cause) => reject(new FlotillaError(`no answer from the sidecar: ${cause.message}`, { cause })));
      asked.end(content);
    });
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of response as AsyncIterable<Buffer>) pieces.push(piece);
  return Buffer.concat(pieces).toString("utf8");
}

function check(response: IncomingMessage, text: string): void {
  const status = response.statusCode ?? 0;
  if (status >= 200 && status < 300) return;
  let failure: Failure | undefined;
  try {
    failure = (JSON.parse(text) as { failure?: Failure }).failure;
  } catch {
    failure = undefined; // not the sidecar's own words
  }
  throw failure ? errorOf(failure) : new FlotillaError(`the sidecar answered ${status}: ${text.slice(0, 200)}`);
}
