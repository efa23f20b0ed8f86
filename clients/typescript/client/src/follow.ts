import { EventParser, type StreamEvent } from "./events.js";
import { errorOf, FlotillaError, noAnswer } from "./problem.js";

/** The gateway pings every 15 s: a stream that is silent for longer is dead, whatever TCP says. */
export const SILENCE_MS = 45_000;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 10_000;

export interface FollowOptions {
  /** The id of the last event that was received before; the beginning without one. */
  lastEventId?: string | null;
  signal?: AbortSignal;
}

/** Opens the stream after the event with this id. */
export type Open = (lastEventId: string | null, signal: AbortSignal) => Promise<Response>;

/**
 * The events of a stream until the one named `done`, each once and in order. Whatever cuts the stream, it goes on after
 * the last event that arrived.
 *
 * Throws a `FlotillaError` when the gateway refuses for good, and the signal's reason when it is aborted.
 */
export async function* follow(open: Open, options: FollowOptions = {}): AsyncGenerator<StreamEvent, void, undefined> {
  const { signal } = options;
  let last = options.lastEventId ?? null;
  let pause = FIRST_PAUSE_MS;
  for (;;) {
    signal?.throwIfAborted();
    try {
      for await (const event of connection(open, last, signal)) {
        last = event.id ?? last;
        pause = FIRST_PAUSE_MS;
        yield event;
        if (event.event === "done") return;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof FlotillaError && error.isTransient)) throw error;
      pause = Math.max(pause, (error.retryAfterS ?? 0) * 1000);
    }
    await sleep(pause, signal);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

async function* connection(open: Open, last: string | null, signal?: AbortSignal): AsyncGenerator<StreamEvent> {
  const over = new AbortController();
  const ended = signal ? AbortSignal.any([signal, over.signal]) : over.signal;
  try {
    const response = await open(last, ended);
    if (!response.ok) throw await errorOf(response);
    if (response.body === null) throw noAnswer(null);
    yield* read(response.body.pipeThrough(new TextDecoderStream()).getReader());
  } finally {
    over.abort(); // also where the caller stopped listening
  }
}

async function* read(reader: ReadableStreamDefaultReader<string>): AsyncGenerator<StreamEvent> {
  const parser = new EventParser();
  for (;;) {
    const piece = await within(reader.read(), SILENCE_MS);
    if (piece.done) return;
    yield* parser.push(piece.value);
  }
}

/** What was read; a connection that broke and one that is silent are the same: no answer. */
async function within<T>(reading: Promise<T>, ms: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing for ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([reading, silence]);
  } catch (error) {
    throw noAnswer(error);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits, or throws the signal's reason. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
  });
}
