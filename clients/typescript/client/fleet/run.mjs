// A program of a team: asks a fleet (FLOTILLA_URL, FLOTILLA_TOKEN), follows the run, and prints what it saw as JSON.
// The first connection of the stream breaks after its first piece, as proxies do.
import { Flotilla, FlotillaError } from "flotilla-client";

const { FLOTILLA_URL: url, FLOTILLA_TOKEN: token, SESSION: session } = process.env;
let streams = 0;
const lastIds = [];

async function breaking(request) {
  const response = await fetch(request);
  if (!request.url.endsWith("/events")) return response;
  lastIds.push(request.headers.get("Last-Event-ID"));
  if (++streams > 1) return response;
  let pieces = 0;
  const cut = new TransformStream({
    transform(piece, controller) {
      controller.enqueue(piece);
      if (++pieces === 1) controller.error(new Error("cut"));
    },
  });
  return new Response(response.body.pipeThrough(cut), response);
}

const flotilla = new Flotilla({ url, token, fetch: breaking });
const { run_id } = await flotilla.start(session, { query: "Who?", metadata: { ticket: "T-17" } });
process.stdout.write(`${JSON.stringify({ run_id })}\n`);
const events = [];
for await (const event of flotilla.follow(run_id)) events.push(event);
const run = await flotilla.ended(run_id);
const { data } = await flotilla.api.GET("/v1/runs", { params: { query: { session_id: session } } });
const refusal = await flotilla.run("no-such-run").catch((error) => error);
process.stdout.write(
  `${JSON.stringify({
    events,
    lastIds,
    status: run.status,
    answer: run.result?.answer,
    listed: data.runs.map((one) => one.run_id),
    refusal: refusal instanceof FlotillaError ? [refusal.status, refusal.code] : String(refusal),
  })}\n`,
);
