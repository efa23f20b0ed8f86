import { useSignal } from "@preact/signals";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import * as api from "../api/calls";
import { address } from "../api/client";
import type { Session, SessionEvent } from "../api/types";
import { mayOperate } from "../lib/account";
import { actorOf, holds, KIND_LABELS, KINDS, kindOf, summary, type Kind } from "../lib/events";
import { useFollowedRun } from "../lib/follow-run";
import { clock, count, number, shortDate, whoAsked } from "../lib/format";
import { useLoaded, useMedia, useRested, useTitle } from "../lib/hooks";
import { currentQuery, setQuery } from "../lib/router";
import { say } from "../lib/saying";
import { Timeline } from "../lib/timeline";
import { Icon } from "../ui/icon";
import { Badge, Button, Empty, Id, Loading, Page, Problem, Tabs, When } from "../ui/parts";
import { VirtualList } from "../ui/virtual-list";
import { isActive } from "./ask";
import { SessionAccess } from "./session-access";
import { SessionAttachments } from "./session-attachments";
import { ComparePanel, EventPanel, StatePanel } from "./session-panels";
import { ChainStatus, ForkDialog, LineageTree, RollbackDialog } from "./session-tools";

const POLL_MS = 2000;

export function SessionPage({ id }: { id: string }) {
  useTitle(`Session ${id}`);
  const loaded = useLoaded(() => api.getSession(id), [id], POLL_MS);
  return (
    <Page
      title="Session"
      isWide
      lead={<code class="break">{id}</code>}
      aside={loaded.data !== null && <Tools session={loaded.data} />}
    >
      <Problem error={loaded.error} onRetry={() => void loaded.reload()} />
      {loaded.isLoading && <Loading lines={10} />}
      {loaded.data !== null && <History key={id} session={loaded.data} reload={loaded.reload} />}
    </Page>
  );
}

function Tools({ session }: { session: Session }) {
  const id = session.session_id;
  const exported = address("/v1/audit/export", { session_id: id });
  return (
    <>
      {mayOperate.value && (
        <a class="button primary" href={`/ask?session=${encodeURIComponent(id)}`}>
          <Icon name="ask" />
          <span class="button-text">Continue</span>
        </a>
      )}
      <a class="button plain" href={exported} download={`${id}.jsonl`}>
        <Icon name="download" />
        <span class="button-text">Export JSON lines</span>
      </a>
    </>
  );
}

type Panel = "event" | "state" | "compare";

function History({ session, reload }: { session: Session; reload: () => Promise<void> }) {
  const id = session.session_id;
  const timeline = useMemo(() => {
    const made = new Timeline((from, limit) => api.sessionEvents(id, from, limit));
    made.grow(session.head_seq);
    return made;
  }, [id]);
  timeline.grow(session.head_seq);
  const head = timeline.head.value;

  const asked = Number(currentQuery.value.get("at"));
  // Null follows the newest event.
  const [chosen, setChosen] = useState<number | null>(Number.isInteger(asked) && asked > 0 ? asked : null);
  const at = Math.min(chosen ?? head, head);
  const [from, setFrom] = useState<number | null>(null);
  const [panel, setPanel] = useState<Panel>("event");
  const [dialog, setDialog] = useState<"fork" | "rollback" | null>(null);
  const choose = useCallback(
    (seq: number) => {
      const next = Math.max(0, Math.min(timeline.head.value, seq));
      const isNewest = next === timeline.head.value;
      setChosen(isNewest ? null : next);
      setQuery({ at: isNewest ? null : next });
    },
    [timeline],
  );
  const compareFrom = (seq: number) => {
    setFrom(seq);
    setPanel("compare");
    say(`Comparing from event ${seq}: choose the other event.`);
  };

  const run = useActiveRun(id, head);
  const live = useFollowedRun(run, (event) => takeIn(timeline, event));
  useEffect(() => {
    if (live.view.status !== null) void reload();
  }, [live.view.status]);

  // Verifying reads the whole log: what somebody wants to see comes first.
  const hasEvents = timeline.revision.value > 0 || head === 0;
  return (
    <>
      <Bar session={session} head={head} isLive={run !== null && live.view.status === null} isConnected={live.isConnected} isVerified={hasEvents} />
      <TimeTravel at={at} head={head} onChange={choose} from={from} />
      <div class="history">
        <section class="history-list" aria-label="Timeline">
          <EventList timeline={timeline} head={head} at={at} onChoose={choose} isFollowing={chosen === null} />
          {live.view.status === null && live.view.text !== "" && (
            <div class="live-answer" aria-label="Answer being written">
              <span class="spinner" aria-hidden="true" /> <span>{live.view.text.slice(-400)}</span>
            </div>
          )}
        </section>
        <section class="history-detail" aria-labelledby="chosen">
          <h2 id="chosen" class="hidden">
            The chosen event
          </h2>
          <Tabs
            label="What to show of the chosen event"
            current={panel}
            onChange={setPanel}
            tabs={[
              { name: "event", title: `Event ${number(at)}` },
              { name: "state", title: "State then" },
              { name: "compare", title: "Compare" },
            ]}
          >
            {panel === "event" && <EventPanel timeline={timeline} seq={at} onChoose={choose} />}
            {panel === "state" && <StatePanel session={id} seq={at} onChoose={choose} />}
            {panel === "compare" && (
              <ComparePanel session={id} from={from ?? Math.max(0, at - 1)} to={at} onFrom={setFrom} head={head} />
            )}
          </Tabs>
          <div class="event-actions">
            {mayOperate.value && (
              <>
                <Button icon="fork" onClick={() => setDialog("fork")}>
                  Fork here
                </Button>
                <Button icon="back" onClick={() => setDialog("rollback")} disabled={at >= head}>
                  Roll back to here
                </Button>
              </>
            )}
            <Button onClick={() => compareFrom(at)}>Compare from here</Button>
          </div>
        </section>
      </div>
      {hasEvents && <LineageTree session={id} />}
      {hasEvents && <SessionAttachments session={id} />}
      {hasEvents && <SessionAccess session={id} />}
      {dialog === "fork" && <ForkDialog session={id} at={at} onClose={() => setDialog(null)} />}
      {dialog === "rollback" && (
        <RollbackDialog
          session={id}
          to={at}
          head={head}
          onClose={() => setDialog(null)}
          onDone={() => {
            setChosen(null);
            setQuery({ at: null });
            void reload();
          }}
        />
      )}
    </>
  );
}

/** Takes a live event in; what came between it and the newest known one is loaded. */
function takeIn(timeline: Timeline, event: SessionEvent): void {
  const before = timeline.head.value;
  timeline.put([event]);
  if (event.sequence > before + 1) void timeline.ensure(before + 1, event.sequence - 1);
}

/** The session's run that goes on now, if any; looked up when the log grows. */
function useActiveRun(session: string, head: number): string | null {
  const [run, setRun] = useState<string | null>(null);
  const look = useCallback(async () => {
    const { runs } = await api.listRuns({ session_id: session, limit: 1 });
    const [newest] = runs;
    setRun((was) => (newest !== undefined && isActive(newest) ? newest.run_id : was));
  }, [session]);
  useEffect(() => {
    look().catch((error: unknown) => say(`The session's runs can't be read: ${String(error)}`));
  }, [session, head]);
  return run;
}

interface BarProps {
  session: Session;
  head: number;
  isLive: boolean;
  isConnected: boolean;
  isVerified: boolean;
}

function Bar({ session, head, isLive, isConnected, isVerified }: BarProps) {
  return (
    <div class="session-bar">
      <span>
        <strong>{number(head)}</strong> {head === 1 ? "event" : "events"}
      </span>
      <span>
        begun by <strong>{whoAsked(session.user_id, session.acted_by)}</strong> <When at={session.created_at} />
      </span>
      {session.kind === "replay" && <Badge tone="warn">replay</Badge>}
      {session.parent_session_id !== null && (
        <span>
          fork of <Id value={session.parent_session_id} href={`/sessions/${encodeURIComponent(session.parent_session_id)}`} />{" "}
          at {session.forked_at_seq}
        </span>
      )}
      {isLive && <Badge tone={isConnected ? "info" : "warn"}>{isConnected ? "live" : "reconnecting…"}</Badge>}
      {isVerified && <ChainStatus session={session.session_id} />}
    </div>
  );
}

interface TravelProps {
  at: number;
  head: number;
  from: number | null;
  onChange: (seq: number) => void;
}

function TimeTravel({ at, head, from, onChange }: TravelProps) {
  const mark = from === null || head === 0 ? null : from / head;
  return (
    <div class="travel">
      <label for="travel">
        Time travel: event <strong>{number(at)}</strong> of {number(head)}
      </label>
      <div class="travel-row">
        <button type="button" class="icon-button" aria-label="One event back" disabled={at <= 0} onClick={() => onChange(at - 1)}>
          <Icon name="prev" />
        </button>
        <div class="travel-slider">
          <input
            id="travel"
            type="range"
            min={0}
            max={head}
            step={1}
            value={at}
            aria-valuetext={`Event ${at} of ${head}`}
            onInput={(event) => onChange(event.currentTarget.valueAsNumber)}
          />
          {mark !== null && <span class="travel-mark" style={{ left: `${mark * 100}%` }} aria-hidden="true" />}
        </div>
        <button type="button" class="icon-button" aria-label="One event on" disabled={at >= head} onClick={() => onChange(at + 1)}>
          <Icon name="chevron" />
        </button>
        <Button isSmall disabled={at >= head} onClick={() => onChange(head)}>
          Newest
        </Button>
      </div>
    </div>
  );
}

interface ListProps {
  timeline: Timeline;
  head: number;
  at: number;
  onChoose: (seq: number) => void;
  isFollowing: boolean;
}

function EventList({ timeline, head, at, onChoose, isFollowing }: ListProps) {
  const [kinds, setKinds] = useState<Kind[]>([]);
  const [words, setWords] = useState("");
  const rested = useRested(words.trim(), 200);
  const isFiltered = kinds.length > 0 || rested !== "";
  const progress = useSignal<number | null>(null);
  const problem = useSignal<unknown>(null);
  const isNarrow = useMedia("(max-width: 700px)");
  const { value: revision } = timeline.revision;
  const wanted = useRef({ first: 0, end: 0 });

  useEffect(() => {
    if (!isFiltered) return undefined;
    const stop = new AbortController();
    progress.value = timeline.loaded;
    timeline
      .ensureAll((loaded) => (progress.value = loaded), stop.signal)
      .catch((error: unknown) => (problem.value = error))
      .finally(() => (progress.value = null));
    return () => stop.abort();
  }, [isFiltered, head]);

  const found = useMemo(() => {
    if (!isFiltered) return null;
    return sequences(head).filter((seq) => {
      const event = timeline.get(seq);
      if (event === undefined) return false;
      const kind = kindOf(event);
      return (kinds.length === 0 || (kind !== null && kinds.includes(kind))) && (rested === "" || holds(event, rested));
    });
  }, [isFiltered, kinds, rested, head, revision]);

  const rows = found === null ? head : found.length;
  const seqOf = (row: number) => (found === null ? row + 1 : (found[row] ?? 0));
  const current = found === null ? at - 1 : found.indexOf(at);
  const onWindow = (first: number, end: number) => {
    wanted.current = { first, end };
    if (found === null && end > first) void timeline.ensure(first + 1, end);
  };
  const toggle = (kind: Kind) =>
    setKinds((before) => (before.includes(kind) ? before.filter((one) => one !== kind) : [...before, kind]));
  return (
    <>
      <div class="list-tools">
        <label class="list-search">
          <span class="hidden">Find in events</span>
          <Icon name="search" />
          <input type="search" placeholder="Find in events" value={words} onInput={(event) => setWords(event.currentTarget.value)} />
        </label>
        <div class="chips" role="group" aria-label="Kinds of event">
          {KINDS.map((kind) => (
            <button key={kind} type="button" class={`chip ${kind}`} aria-pressed={kinds.includes(kind)} onClick={() => toggle(kind)}>
              {KIND_LABELS[kind]}
            </button>
          ))}
        </div>
        {isFiltered && (
          <p class="faint" role="status">
            {progress.value === null
              ? `${count(rows, "event")} of ${number(head)}`
              : `Reading: ${number(progress.value)} of ${number(head)}`}
          </p>
        )}
      </div>
      <Problem
        error={timeline.error.value ?? problem.value}
        onRetry={() => void timeline.ensure(wanted.current.first + 1, wanted.current.end)}
      />
      {rows === 0 ? (
        <Empty icon="sessions" title={isFiltered ? "No event matches" : "No event yet"} />
      ) : (
        <VirtualList
          label={`Events of the session, ${number(rows)}`}
          rows={rows}
          rowHeight={isNarrow ? 60 : 40}
          current={current}
          onChoose={(row) => onChoose(seqOf(row))}
          onWindow={onWindow}
          isFollowing={isFollowing}
        >
          {(row) => <Row seq={seqOf(row)} event={timeline.get(seqOf(row))} />}
        </VirtualList>
      )}
    </>
  );
}

function Row({ seq, event }: { seq: number; event: SessionEvent | undefined }) {
  if (event === undefined) {
    return (
      <div class="event-row">
        <span class="seq">{number(seq)}</span>
        <span class="faint">…</span>
      </div>
    );
  }
  const kind = kindOf(event);
  return (
    <div class={`event-row ${kind ?? "unknown"}${event.data.ok === false ? " failed" : ""}`}>
      <span class="seq">{number(seq)}</span>
      <time class="at" dateTime={event.time} title={event.time}>
        <span class="day">{shortDate(event.time)} </span>
        {clock(event.time)}
      </time>
      <span class="kind">{kind === null ? event.type : KIND_LABELS[kind]}</span>
      <span class="actor">{actorOf(event)}</span>
      <span class="summary">{summary(event)}</span>
    </div>
  );
}

function sequences(head: number): number[] {
  return Array.from({ length: head }, (_, at) => at + 1);
}

