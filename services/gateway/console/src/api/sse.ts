/**
 * Server-sent events over fetch. The browser's EventSource gives up for good on a 502 of a proxy and can't be given
 * where to go on; a run has to be followed across a gateway's death without a gap or a double.
 */

import { isAbort } from "./client";
import { ApiError, asApiError, errorOf, noAnswer } from "./problem";

export interface ServerEvent {
  event: string;
  data: string;
  id: string | null;
}

/** Cuts a stream of text into events (the format of the HTML standard, 9.2.6). */
export class EventParser {
  #rest = "";
  #event = "";
  #data: string[] = [];
  #id: string | null = null;

  /** The events that are complete with this piece; a piece may end anywhere. */
  push(piece: string): ServerEvent[] {
    const text = this.#rest + piece;
    // A CR at the very end may be half of a CRLF.
    const end = text.endsWith("\r") ? text.length - 1 : text.length;
    const lines = text.slice(0, end).split(/\r\n|\n|\r/);
    this.#rest = (lines.pop() ?? "") + text.slice(end);
    return lines.flatMap((line) => this.#line(line));
  }

  #line(line: string): ServerEvent[] {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return [];
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return [];
  }

  #dispatch(): ServerEvent[] {
    const found = this.#data.length === 0 ? [] : [this.#made()];
    this.#event = "";
    this.#data = [];
    return found;
  }

  #made(): ServerEvent {
    return { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
  }
}

export interface FollowOptions {
  signal: AbortSignal;
  /** Gets every event, each once, in order. Return false to end. */
  onEvent: (event: ServerEvent) => boolean;
  /** True while events can arrive, false while the stream is being opened again. */
  onConnected?: (isConnected: boolean) => void;
  fetch?: typeof fetch;
  wait?: (ms: number, signal: AbortSignal) => Promise<void>;
}

export const FIRST_PAUSE_MS = 250;
export const LONGEST_PAUSE_MS = 5_000;
/** The gateway pings every 15 s: a stream that is silent for longer is dead, whatever TCP says. */
export const SILENCE_MS = 45_000;

/**
 * Follows a stream until `onEvent` returns false, going on after the last event whenever it breaks.
 *
 * Throws an `ApiError` when the gateway refuses the stream for good (403, 404).
 */
export async function follow(to: string, options: FollowOptions): Promise<void> {
  const position = { id: null as string | null };
  let pause = FIRST_PAUSE_MS;
  while (!options.signal.aborted) {
    try {
      const ended = await once(to, options, position, () => (pause = FIRST_PAUSE_MS));
      if (ended) return;
    } catch (error) {
      if (isAbort(error)) return;
      const problem = asApiError(error);
      if (!problem.isTransient) throw problem;
      pause = Math.max(pause, (problem.retryAfterS ?? 0) * 1000);
    }
    options.onConnected?.(false);
    await (options.wait ?? sleep)(pause, options.signal);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

/** One connection. True when `onEvent` has had enough. */
async function once(
  to: string,
  options: FollowOptions,
  position: { id: string | null },
  onOpen: () => void,
): Promise<boolean> {
  const headers: Record<string, string> = { Accept: "text/event-stream" };
  if (position.id !== null) headers["Last-Event-ID"] = position.id;
  const response = await opened(to, headers, options);
  if (!response.ok) throw await errorOf(response);
  if (response.body === null) throw noAnswer();
  onOpen();
  options.onConnected?.(true);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    return await readAll(reader, options, position);
  } finally {
    await reader.cancel().catch(() => undefined); // it may have broken already
  }
}

async function opened(to: string, headers: Record<string, string>, options: FollowOptions): Promise<Response> {
  try {
    return await (options.fetch ?? fetch)(to, {
      headers,
      credentials: "same-origin",
      cache: "no-store",
      signal: options.signal,
    });
  } catch (error) {
    if (options.signal.aborted) throw error;
    throw noAnswer();
  }
}

async function readAll(
  reader: ReadableStreamDefaultReader<string>,
  options: FollowOptions,
  position: { id: string | null },
): Promise<boolean> {
  const parser = new EventParser();
  for (;;) {
    const piece = await within(reader.read(), SILENCE_MS);
    if (piece.done) return false;
    for (const event of parser.push(piece.value)) {
      position.id = event.id ?? position.id;
      if (!options.onEvent(event)) return true;
    }
  }
}

/** The read's outcome; a broken connection and a silent one are the same: no answer. */
async function within<T>(reading: Promise<T>, ms: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(noAnswer()), ms);
  });
  try {
    return await Promise.race([reading, silence]);
  } catch (error) {
    if (isAbort(error) || error instanceof ApiError) throw error;
    throw noAnswer();
  } finally {
    clearTimeout(timer);
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, signal.aborted ? 0 : ms);
    signal.addEventListener("abort", done, { once: true });
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}
