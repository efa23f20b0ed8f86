/**
 * The events of one session, loaded where somebody looks. A session of 10,000 events opens with its last page; the
 * row of event `seq` is `seq - 1`, so the length of the list is known before anything is loaded.
 */

import { signal } from "@preact/signals";
import type { SessionEvent, SessionEvents } from "../api/types";

export const PAGE = 200;
const WHOLE_PAGE = 1000;

export type LoadEvents = (fromSeq: number, limit: number) => Promise<SessionEvents>;

export class Timeline {
  /** Seq of the newest event. */
  readonly head = signal(0);
  /** Grows whenever an event arrives. */
  readonly revision = signal(0);
  readonly error = signal<unknown>(null);
  readonly #events = new Map<number, SessionEvent>();
  readonly #loading = new Map<number, Promise<void>>();
  readonly #load: LoadEvents;

  constructor(load: LoadEvents) {
    this.#load = load;
  }

  get(seq: number): SessionEvent | undefined {
    return this.#events.get(seq);
  }

  get loaded(): number {
    return this.#events.size;
  }

  /** The log is at least this long. */
  grow(head: number): void {
    if (head > this.head.value) this.head.value = head;
  }

  /** Takes events in, each once: a log's event never changes. */
  put(events: readonly SessionEvent[]): void {
    let isNew = false;
    for (const event of events) {
      if (this.#events.has(event.sequence)) continue;
      this.#events.set(event.sequence, event);
      isNew = true;
      this.grow(event.sequence);
    }
    if (isNew) this.revision.value += 1;
  }

  /** Loads what is missing of the events from `first` to `last`, page by page; a page is asked for once at a time. */
  async ensure(first: number, last: number): Promise<void> {
    const from = Math.max(1, first);
    const to = Math.min(last, this.head.value);
    const pages: number[] = [];
    for (let page = Math.floor((from - 1) / PAGE); page * PAGE < to; page += 1) {
      if (this.#lacks(Math.max(from, page * PAGE + 1), Math.min(to, (page + 1) * PAGE))) pages.push(page);
    }
    await Promise.all(pages.map((page) => this.#page(page)));
  }

  /** Loads everything, for filters; `onProgress` gets how many are there. */
  async ensureAll(onProgress: (loaded: number) => void, signal: AbortSignal): Promise<void> {
    for (let from = 1; from <= this.head.value && !signal.aborted; from += WHOLE_PAGE) {
      const last = Math.min(this.head.value, from + WHOLE_PAGE - 1);
      if (this.#lacks(from, last)) this.put((await this.#load(from, WHOLE_PAGE)).events);
      onProgress(last);
    }
  }

  #lacks(first: number, last: number): boolean {
    for (let seq = first; seq <= last; seq += 1) if (!this.#events.has(seq)) return true;
    return false;
  }

  #page(page: number): Promise<void> {
    const running = this.#loading.get(page);
    if (running !== undefined) return running;
    const loading = this.#load(page * PAGE + 1, PAGE)
      .then(
        ({ events }) => {
          this.error.value = null;
          this.put(events);
        },
        (error: unknown) => {
          this.error.value = error;
        },
      )
      .finally(() => this.#loading.delete(page));
    this.#loading.set(page, loading);
    return loading;
  }
}
