import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Run, RunStatus } from "../api/types";
import { duration, whoAsked } from "../lib/format";
import { usePages, useRested, useTitle } from "../lib/hooks";
import { currentQuery, setQuery } from "../lib/router";
import { nameOf } from "../lib/run-view";
import { oneLine } from "../lib/text";
import { Async, Empty, Id, More, Page, Status, When } from "../ui/parts";

const STATUSES: RunStatus[] = ["queued", "pending", "running", "interrupted", "success", "error", "timeout", "cancelled"];
const POLL_MS = 3000;
const LIMIT = 50;

export function RunsPage() {
  useTitle("Runs");
  const status = currentQuery.value.get("status") ?? "";
  const session = currentQuery.value.get("session") ?? "";
  const [words, setWords] = useState("");
  const rested = useRested(session.trim(), 250);
  const query = {
    status: STATUSES.find((one) => one === status),
    session_id: rested === "" ? undefined : rested,
    limit: LIMIT,
  };
  const loaded = usePages("runs", (cursor) => api.listRuns({ ...query, cursor }), [status, rested], POLL_MS);
  return (
    <Page title="Runs" lead="Questions and their answers, newest first.">
      <div class="filters" role="search">
        <label>
          Status
          <select value={status} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
            <option value="">any</option>
            {STATUSES.map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
        <label>
          Session
          <input type="search" value={session} placeholder="any" onInput={(event) => setQuery({ session: event.currentTarget.value })} />
        </label>
        <label>
          Question or person
          <input type="search" value={words} placeholder="Among those shown" onInput={(event) => setWords(event.currentTarget.value)} />
        </label>
      </div>
      <Async of={loaded} lines={8}>
        {({ runs: listed, next_cursor }) => {
          const runs = listed.filter((run) => fits(run, words));
          return (
            <>
              {runs.length === 0 ? <None isFiltered={status !== "" || session !== "" || words !== ""} /> : <Table runs={runs} />}
              <More cursor={next_cursor} onMore={loaded.more} />
            </>
          );
        }}
      </Async>
    </Page>
  );
}

function fits(run: Run, words: string): boolean {
  return `${nameOf(run)} ${whoAsked(run.user_id, run.acted_by)}`.toLowerCase().includes(words.trim().toLowerCase());
}

function None({ isFiltered }: { isFiltered: boolean }) {
  return isFiltered ? (
    <Empty icon="search" title="No run matches these filters" />
  ) : (
    <Empty icon="runs" title="No run yet">
      <a href="/ask">Ask a question</a> to begin one.
    </Empty>
  );
}

function Table({ runs }: { runs: Run[] }) {
  return (
    <table class="list" aria-label="Runs">
      <thead>
        <tr>
          <th scope="col">Question</th>
          <th scope="col">Status</th>
          <th scope="col">Session</th>
          <th scope="col">Asked by</th>
          <th scope="col" class="num">
            Took
          </th>
          <th scope="col">Asked</th>
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => (
          <tr key={run.run_id}>
            <th scope="row" data-label="Question">
              <a class="clip" href={`/runs/${encodeURIComponent(run.run_id)}`}>
                {oneLine(nameOf(run), 240)}
              </a>
            </th>
            <td data-label="Status">
              <Status value={run.status} />
            </td>
            <td data-label="Session">
              <Id value={run.session_id} href={`/sessions/${encodeURIComponent(run.session_id)}`} />
            </td>
            <td data-label="Asked by">{whoAsked(run.user_id, run.acted_by)}</td>
            <td data-label="Took" class="num">
              {run.finished_at === null ? "…" : duration(Date.parse(run.finished_at) - Date.parse(run.created_at))}
            </td>
            <td data-label="Asked">
              <When at={run.created_at} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
