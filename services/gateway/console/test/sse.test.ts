import { describe, expect, it } from "vitest";
import { EventParser, FIRST_PAUSE_MS, follow, type ServerEvent } from "../src/api/sse";

const event = (name: string, data: string, id: string) => `event: ${name}\nid: ${id}\ndata: ${data}\n\n`;

function answer(...pieces: string[]): Response {
  const bytes = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const piece of pieces) controller.enqueue(bytes.encode(piece));
      controller.close();
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
}

/** Follows a gateway that gives these answers, one for each connection. */
async function followed(answers: (() => Response)[]) {
  const events: ServerEvent[] = [];
  const asked: (string | null)[] = [];
  const pauses: number[] = [];
  const connected: boolean[] = [];
  await follow("/v1/runs/r/events", {
    signal: new AbortController().signal,
    onEvent: (one) => {
      events.push(one);
      return one.event !== "done";
    },
    onConnected: (is) => connected.push(is),
    fetch: (_to, init) => {
      asked.push(new Headers(init?.headers).get("Last-Event-ID"));
      const next = answers.shift();
      return next === undefined ? Promise.reject(new TypeError("no more answers")) : Promise.resolve(next());
    },
    wait: (ms) => {
      pauses.push(ms);
      return Promise.resolve();
    },
  });
  return { events, asked, pauses, connected };
}

describe("the parser", () => {
  it("reads events whatever the pieces are cut into", () => {
    const text = `: ping\n\n${event("token", '{"text":"ä"}', "1-0;1")}${event("done", "{}", "2-0;1")}`;
    for (let size = 1; size < 12; size += 1) {
      const parser = new EventParser();
      const found = (text.match(new RegExp(`[^]{1,${size}}`, "g")) ?? []).flatMap((piece) => parser.push(piece));
      expect(found).toEqual([
        { event: "token", data: '{"text":"ä"}', id: "1-0;1" },
        { event: "done", data: "{}", id: "2-0;1" },
      ]);
    }
  });

  it("takes CRLF and CR as ends of lines, also when a CRLF is cut in two", () => {
    const parser = new EventParser();
    expect([...parser.push("data: a\r"), ...parser.push("\ndata: b\r\n\r\n"), ...parser.push("data: c\r\r\n")]).toEqual([
      { event: "message", data: "a\nb", id: null },
      { event: "message", data: "c", id: null },
    ]);
  });

  it("keeps back an event that is not complete", () => {
    const parser = new EventParser();
    expect(parser.push("id: 5-0;1\ndata: half")).toEqual([]);
    expect(parser.push("\n\n")).toEqual([{ event: "message", data: "half", id: "5-0;1" }]);
  });
});

describe("following", () => {
  it("goes on after the last whole event when the connection breaks", async () => {
    const { events, asked } = await followed([
      () => answer(event("token", "a", "1-0;1"), event("token", "b", "2-0;1"), "event: token\nid: 3-0;1\ndata: c"),
      () => answer(event("token", "c", "3-0;1"), event("done", "{}", "3-0;2")),
    ]);
    expect(events.map((one) => one.data)).toEqual(["a", "b", "c", "{}"]);
    expect(asked).toEqual([null, "2-0;1"]);
  });

  it("survives a proxy's 502 and a gateway that is away, waiting longer each time", async () => {
    const { events, pauses, connected } = await followed([
      () => new Response("bad gateway", { status: 502 }),
      () => {
        throw new TypeError("connection refused");
      },
      () => answer(event("done", "{}", "1-0;1")),
    ]);
    expect(events).toHaveLength(1);
    expect(pauses).toEqual([FIRST_PAUSE_MS, FIRST_PAUSE_MS * 2]);
    expect(connected).toEqual([false, false, true]);
  });

  it("waits as long as Retry-After says", async () => {
    const { pauses } = await followed([
      () => new Response("{}", { status: 503, headers: { "Retry-After": "2" } }),
      () => answer(event("done", "{}", "1-0;1")),
    ]);
    expect(pauses).toEqual([2000]);
  });

  it("ends with the refusal when there is no such run", async () => {
    const missing = () => new Response('{"detail":"no run r","code":"not_found"}', { status: 404 });
    await expect(followed([missing])).rejects.toMatchObject({ status: 404, code: "not_found" });
  });

  it("stops when it is aborted", async () => {
    const stop = new AbortController();
    let connections = 0;
    await follow("/v1/runs/r/events", {
      signal: stop.signal,
      onEvent: () => true,
      fetch: () => {
        connections += 1;
        stop.abort();
        return Promise.reject(new DOMException("aborted", "AbortError"));
      },
    });
    expect(connections).toBe(1);
  });
});
