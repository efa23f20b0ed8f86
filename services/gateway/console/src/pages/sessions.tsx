import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Session } from "../api/types";
import { number, whoAsked } from "../lib/format";
import { usePages, useRested, useTitle } from "../lib/hooks";
import { currentQuery, navigate, setQuery } from "../lib/router";
import { Async, Empty, Id, More, Page, When } from "../ui/parts";

const POLL_MS = 5000;

export function SessionsPage() {
  useTitle("Sessions");
  const [words, setWords] = useState(currentQuery.value.get("q") ?? "");
  const rested = useRested(words.trim(), 250);
  const loaded = usePages("sessions", (cursor) => api.listSessions({ q: rested, cursor, limit: 100 }), [rested], POLL_MS);
  const open = (event: Event) => {
    event.preventDefault();
    if (words.trim() !== "") navigate(`/sessions/${encodeURIComponent(words.trim())}`);
  };
  return (
    <Page title="Sessions" lead="Every conversation, action and order keeps its whole history here.">
      <form class="filters" role="search" onSubmit={open}>
        <label>
          Session id
          <input
            type="search"
            value={words}
            placeholder="Filter; Enter opens"
            onInput={(event) => {
              setWords(event.currentTarget.value);
              setQuery({ q: event.currentTarget.value.trim() });
            }}
          />
        </label>
      </form>
      <Async of={loaded} lines={8}>
        {({ sessions, next_cursor }) => {
          const shown = sessions.filter((one) => one.session_id.toLowerCase().includes(rested.toLowerCase()));
          return (
            <>
              {shown.length === 0 ? <None isFiltered={rested !== ""} /> : <Table sessions={shown} />}
              <More cursor={next_cursor} onMore={loaded.more} />
            </>
          );
        }}
      </Async>
    </Page>
  );
}

function None({ isFiltered }: { isFiltered: boolean }) {
  return isFiltered ? (
    <Empty icon="search" title="No session of the list has that in its id" />
  ) : (
    <Empty icon="sessions" title="No session yet">
      <a href="/ask">Ask a question</a> to begin one.
    </Empty>
  );
}

function Table({ sessions }: { sessions: Session[] }) {
  return (
    <table class="list" aria-label="Sessions">
      <thead>
        <tr>
          <th scope="col">Session</th>
          <th scope="col">Begun by</th>
          <th scope="col" class="num">
            Events
          </th>
          <th scope="col">Forked from</th>
          <th scope="col">Begun</th>
        </tr>
      </thead>
      <tbody>
        {sessions.map((one) => (
          <tr key={one.session_id}>
            <th scope="row" data-label="Session">
              <Id value={one.session_id} href={`/sessions/${encodeURIComponent(one.session_id)}`} />
            </th>
            <td data-label="Begun by">{whoAsked(one.user_id, one.acted_by)}</td>
            <td data-label="Events" class="num">
              {number(one.head_seq)}
            </td>
            <td data-label="Forked from">
              {one.parent_session_id === null ? (
                <span class="faint">—</span>
              ) : (
                <>
                  <Id value={one.parent_session_id} href={`/sessions/${encodeURIComponent(one.parent_session_id)}`} /> at{" "}
                  {one.forked_at_seq}
                </>
              )}
            </td>
            <td data-label="Begun">
              <When at={one.created_at} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
