// Against a server that does what gateways, proxies and networks do on bad days.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { browserToken, EventParser, Flotilla, FlotillaError } from "flotilla-client";

/** Answers requests with `handle(request, response, number)`; returns a client of it and what was asked. */
async function served(context, handle, options = {}) {
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(request);
    handle(request, response, asked.length);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${server.address().port}`;
  return { asked, url, flotilla: new Flotilla({ url, token: "flo_key", ...options }) };
}

function json(response, status, body, headers = {}) {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(JSON.stringify(body));
}

function event(kind, id, data) {
  return `event: ${kind}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
}

async function collected(events) {
  const found = [];
  for await (const one of events) found.push([one.kind, one.id, one.data]);
  return found;
}

test("events are read however the text is cut", () => {
  const text = 'id: 1-0;1\r\nevent: token\r\ndata: {"text":"ä"}\r\n\r\n: ping\n\ndata: a\ndata: b\n\nid: 2-0;1\ndata\n\n';
  const whole = new EventParser().push(text);
  assert.deepEqual(whole, [
    { event: "token", id: "1-0;1", data: '{"text":"ä"}' },
    { event: "message", id: "1-0;1", data: "a\nb" },
    { event: "message", id: "2-0;1", data: "" },
  ]);
  for (let size = 1; size < 9; size++) {
    const parser = new EventParser();
    const pieces = [];
    for (let at = 0; at < text.length; at += size) pieces.push(text.slice(at, at + size));
    assert.deepEqual(pieces.flatMap((piece) => parser.push(piece)), whole, `pieces of ${size}`);
  }
});

test("a stream that is cut goes on after the last event, each event once", async (context) => {
  const { asked, flotilla } = await served(context, (_request, response, number) => {
    if (number === 2) return json(response, 503, { code: "unavailable", detail: "no" });
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    if (number === 1) {
      response.write(event("token", "1-0;1", { text: "Hel" }) + "event: token\nid: 2-0;1\ndata: {");
      setTimeout(() => response.destroy(), 20);
    } else response.end(event("token", "2-0;1", { text: "lo" }) + event("done", "2-0;2", { status: "success" }));
  });
  assert.deepEqual(await collected(flotilla.follow("r")), [
    ["token", "1-0;1", { text: "Hel" }],
    ["token", "2-0;1", { text: "lo" }],
    ["done", "2-0;2", { status: "success" }],
  ]);
  assert.deepEqual(asked.map((one) => one.headers["last-event-id"]), [undefined, "1-0;1", "1-0;1"]);
});

test("a stream that is refused for good ends with the reason", async (context) => {
  const { asked, flotilla } = await served(context, (_request, response) =>
    json(response, 404, { code: "not_found", detail: "no run r" }),
  );
  await assert.rejects(collected(flotilla.follow("r")), { name: "FlotillaError", status: 404, code: "not_found" });
  assert.equal(asked.length, 1);
});

test("who stops listening closes the connection", async (context) => {
  let closed;
  const isClosed = new Promise((resolve) => (closed = resolve));
  const { flotilla } = await served(context, (request, response) => {
    request.on("close", closed);
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(event("token", "1-0;1", { text: "a" }));
  });
  for await (const one of flotilla.follow("r")) {
    assert.equal(one.data.text, "a");
    break;
  }
  await isClosed;
  const stop = new AbortController();
  await assert.rejects(
    (async () => {
      for await (const one of flotilla.follow("r", { signal: stop.signal })) stop.abort(new Error(`saw ${one.kind}`));
    })(),
    { message: "saw token" },
  );
});

test("a start is repeated with the same key, a request without one is not", async (context) => {
  const { asked, flotilla } = await served(context, (_request, response, number) => {
    if (number === 1) response.destroy();
    else if (number === 2) json(response, 429, { code: "too_many", detail: "later" }, { "Retry-After": "0" });
    else json(response, 202, { run_id: "r", session_id: "s", workflow_id: "run-r", status: "pending" });
  });
  assert.equal((await flotilla.start("s", { query: "q" })).run_id, "r");
  assert.equal(new Set(asked.map((one) => one.headers["idempotency-key"])).size, 1);
  assert.equal(asked.length, 3);
  const { asked: cancels, flotilla: other } = await served(context, (_request, response) =>
    json(response, 503, { code: "unavailable", detail: "no" }),
  );
  await assert.rejects(other.cancel("r"), (error) => error instanceof FlotillaError && error.isTransient);
  assert.equal(cancels.length, 1);
});

test("a refused token is renewed once, and callers at the same time share it", async (context) => {
  let made = 0;
  const expires_at = new Date(Date.now() + 600_000).toISOString();
  const token = browserToken(async () => ({ token: `flot_${++made}`, expires_at }));
  const { asked, flotilla } = await served(
    context,
    (request, response) => {
      if (request.headers.authorization === "Bearer flot_1") json(response, 401, { code: "unauthenticated" });
      else json(response, 200, { run_id: "r", status: "success" });
    },
    { token },
  );
  await Promise.all([flotilla.run("a"), flotilla.run("b"), flotilla.run("c")]);
  await flotilla.run("d");
  assert.equal(made, 2);
  assert.equal(asked.at(-1).headers.authorization, "Bearer flot_2");
});

test("a token is renewed before its time is over, and a failed renewal is tried again", async () => {
  let made = 0;
  const token = browserToken(async () => {
    made += 1;
    if (made === 1) throw new Error("logged out");
    return { token: `flot_${made}`, expires_at: new Date(Date.now() + (made === 2 ? 1_000 : 600_000)).toISOString() };
  });
  await assert.rejects(token(), { message: "logged out" });
  assert.equal(await token(), "flot_3");
  assert.equal(await token(), "flot_3");
});

test("callers at the same time share one renewal before its time is over", async () => {
  let made = 0;
  const token = browserToken(async () => {
    made += 1;
    return { token: `flot_${made}`, expires_at: new Date(Date.now() + (made === 2 ? 600_000 : 1_000)).toISOString() };
  });
  const tokens = await Promise.all([token(), token(), token()]);
  assert.deepEqual([tokens, made], [["flot_2", "flot_2", "flot_2"], 2]);
});

test("an address may end with a slash", async (context) => {
  const { asked, url } = await served(context, (_request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.end(event("done", "1-0;1", { status: "success" }));
  });
  await collected(new Flotilla({ url: `${url}/`, token: "flo_key" }).follow("r"));
  assert.deepEqual(asked.map((one) => one.url), ["/v1/runs/r/events"]);
});

test("a person is named as the gateway reads it", async (context) => {
  const { asked, flotilla } = await served(context, (_request, response) => json(response, 200, { status: "success" }), {
    onBehalfOf: "Zoe\u0308, 1",
  });
  await flotilla.run("r");
  assert.equal(asked[0].headers["flotilla-on-behalf-of"], "Zo%C3%AB%2C%201");
});
