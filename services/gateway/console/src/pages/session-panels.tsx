/** What a session's page shows of the chosen event: itself, the state then, the difference to another. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Json, SessionEvent, SessionState, Source } from "../api/types";
import { traceAddress } from "../lib/account";
import { actorOf, KIND_LABELS, kindOf, traceIdOf } from "../lib/events";
import { count, dateTime, duration, number } from "../lib/format";
import { useLoaded, useRested } from "../lib/hooks";
import { callsOf, inLine, isEmptyState, linesOf, type CallOfState, type DiffLine } from "../lib/state-view";
import { oneLine } from "../lib/text";
import type { Timeline } from "../lib/timeline";
import { MessageText } from "../ui/answer";
import { JsonView } from "../ui/json";
import { Async, Badge, Button, Empty, ExternalLink, Facts, Field, Id, Loading, Status } from "../ui/parts";

interface EventProps {
  timeline: Timeline;
  seq: number;
  onChoose: (seq: number) => void;
}

export function EventPanel({ timeline, seq, onChoose }: EventProps) {
  const { value: revision } = timeline.revision;
  useEffect(() => void timeline.ensure(seq, seq), [seq, revision]);
  if (seq === 0) return <Empty icon="sessions" title="Before the first event" />;
  const event = timeline.get(seq);
  if (event === undefined) return <Loading lines={5} />;
  return (
    <>
      <EventFacts event={event} />
      <Content event={event} onChoose={onChoose} timeline={timeline} />
      <details class="raw">
        <summary>The event as it was committed</summary>
        <JsonView value={event as unknown as Json} label={`Event ${seq}`} />
      </details>
    </>
  );
}

function EventFacts({ event }: { event: SessionEvent }) {
  const kind = kindOf(event);
  const trace = traceIdOf(event.traceparent);
  const viewer = trace === null ? null : traceAddress(trace);
  return (
    <Facts
      items={[
        ["Kind", kind === null ? event.type : KIND_LABELS[kind]],
        ["By", actorOf(event)],
        ["Time", <time dateTime={event.time}>{dateTime(event.time)}</time>],
        event.runid !== undefined && ["Run", <Id value={event.runid} href={`/runs/${encodeURIComponent(event.runid)}`} />],
        trace !== null && [
          "Trace",
          viewer === null ? <Id value={trace} /> : <ExternalLink href={viewer}>{trace.slice(0, 12)}…</ExternalLink>,
        ],
      ]}
    />
  );
}

function Content({ event, timeline, onChoose }: { event: SessionEvent; timeline: Timeline; onChoose: (seq: number) => void }) {
  const { data } = event;
  switch (kindOf(event)) {
    case "message":
      return (
        <div class="message-content">
          <Badge tone="neutral">{text(data.role)}</Badge>
          <MessageText role={text(data.role)} content={text(data.content)} sources={(data.sources ?? []) as unknown as Source[]} />
        </div>
      );
    case "tool_call":
      return (
        <>
          <h3>
            Calls <code>{text(data.tool)}</code>
          </h3>
          <JsonView value={data.args} label="Arguments" />
          <Partner event={event} timeline={timeline} onChoose={onChoose} />
        </>
      );
    case "tool_result":
      return (
        <>
          <h3>
            <code>{text(data.tool)}</code> {data.ok === false ? <Badge tone="bad">failed</Badge> : <Badge tone="good">ok</Badge>}{" "}
            {typeof data.duration_ms === "number" && <span class="faint">{duration(data.duration_ms)}</span>}
          </h3>
          {typeof data.error === "string" && <p class="plain-text">{data.error}</p>}
          {data.result !== null && <JsonView value={data.result} label="Result" />}
          <Partner event={event} timeline={timeline} onChoose={onChoose} />
        </>
      );
    case "state_change":
      return <JsonView value={data} label="Change" />;
    case "error":
      return (
        <>
          <h3>{text(data.type)}</h3>
          <p class="plain-text">{text(data.message)}</p>
          <p class="faint">
            In {text(data.where)}, attempt {text(data.attempt)}, {data.retryable === true ? "can be tried again" : "final"}
          </p>
        </>
      );
    case null:
      return <JsonView value={data} label="Data" />;
  }
}

/** The call of a result, or the result of a call, where it is among the loaded events nearby. */
function Partner({ event, timeline, onChoose }: { event: SessionEvent; timeline: Timeline; onChoose: (seq: number) => void }) {
  const step = kindOf(event) === "tool_call" ? 1 : -1;
  for (let seq = event.sequence + step; Math.abs(seq - event.sequence) <= 200; seq += step) {
    const other = timeline.get(seq);
    if (other === undefined) return null;
    if (other.data.call_id === event.data.call_id) {
      return (
        <Button isSmall onClick={() => onChoose(seq)}>
          {step > 0 ? `Its result: event ${seq}` : `Its call: event ${seq}`}
        </Button>
      );
    }
  }
  return null;
}

function text(value: Json | undefined): string {
  return value === undefined || value === null ? "" : inLine(value);
}

interface StateProps {
  session: string;
  seq: number;
  onChoose: (seq: number) => void;
}

/** How many of each list are shown: the newest ones. */
const SHOWN = 30;

export function StatePanel({ session, seq, onChoose }: StateProps) {
  const rested = useRested(seq, 60);
  const loaded = useLoaded(() => api.stateAt(session, rested), [session, rested]);
  const [kept, setKept] = useState<SessionState | null>(null);
  // While the slider moves, the last state stays: no flicker.
  useEffect(() => {
    if (loaded.data !== null) setKept(loaded.data);
  }, [loaded.data]);
  const shown = loaded.data ?? (loaded.error === null ? kept : null);
  return (
    <Async of={{ ...loaded, data: shown }} lines={6}>
      {(state) => <StateView state={state} isStale={state.at_seq !== seq} onChoose={onChoose} />}
    </Async>
  );
}

function StateView({ state, isStale, onChoose }: { state: SessionState; isStale: boolean; onChoose: (seq: number) => void }) {
  const calls = callsOf(state);
  return (
    <div class="state" aria-busy={isStale} data-at-seq={state.at_seq}>
      <Facts
        items={[
          ["After event", number(state.at_seq)],
          ["Status", state.status === null ? <span class="faint">none yet</span> : <Status value={state.status} />],
          ["Newest that counts", state.at_time === null ? <span class="faint">none</span> : dateTime(state.at_time)],
        ]}
      />
      {isEmptyState(state) && <p class="faint">Nothing was said or done yet.</p>}
      {Object.keys(state.variables).length > 0 && (
        <>
          <h3>Variables</h3>
          <Facts items={Object.entries(state.variables).map(([name, value]) => [name, <code class="break">{inLine(value)}</code>])} />
        </>
      )}
      <Listed title="Messages" items={state.messages}>
        {(message) => (
          <article class={`turn ${message.role}`}>
            <p class="turn-who">
              {message.role} <SeqLink seq={message.seq} onChoose={onChoose} />
            </p>
            <MessageText role={message.role} content={message.content} sources={message.sources} />
          </article>
        )}
      </Listed>
      <Listed title="Tool calls" items={calls}>
        {(one) => <Call one={one} onChoose={onChoose} />}
      </Listed>
      <Listed title="Errors" items={state.errors}>
        {(error) => (
          <p>
            <SeqLink seq={error.seq} onChoose={onChoose} /> <strong>{error.type}</strong> {oneLine(error.message)}
          </p>
        )}
      </Listed>
    </div>
  );
}

function Listed<T>({ title, items, children }: { title: string; items: T[]; children: (item: T) => ComponentChildren }) {
  const [shown, setShown] = useState(SHOWN);
  if (items.length === 0) return null;
  const hidden = Math.max(0, items.length - shown);
  return (
    <>
      <h3>
        {title} <span class="faint">{number(items.length)}</span>
      </h3>
      {hidden > 0 && (
        <Button isSmall onClick={() => setShown(shown + 200)}>
          {`Show earlier ones (${number(hidden)})`}
        </Button>
      )}
      <div class="listed">
        {items.slice(hidden).map((item, at) => (
          <div key={hidden + at}>{children(item)}</div>
        ))}
      </div>
    </>
  );
}

function Call({ one: { call, result }, onChoose }: { one: CallOfState; onChoose: (seq: number) => void }) {
  return (
    <p class="call">
      <SeqLink seq={call.seq} onChoose={onChoose} /> <code>{call.tool}</code>{" "}
      {result === null ? (
        <Badge tone="warn">open</Badge>
      ) : result.ok ? (
        <Badge tone="good">ok</Badge>
      ) : (
        <Badge tone="bad">failed</Badge>
      )}{" "}
      {result !== null && <span class="faint">{duration(result.duration_ms)}</span>}
    </p>
  );
}

function SeqLink({ seq, onChoose }: { seq: number; onChoose: (seq: number) => void }) {
  return (
    <button type="button" class="link-button" aria-label={`Go to event ${seq}`} onClick={() => onChoose(seq)}>
      {number(seq)}
    </button>
  );
}

interface CompareProps {
  session: string;
  from: number;
  to: number;
  head: number;
  onFrom: (seq: number) => void;
}

export function ComparePanel({ session, from, to, head, onFrom }: CompareProps) {
  const rested = useRested(`${from} ${to}`, 80);
  const loaded = useLoaded(() => {
    const [one = 0, other = 0] = rested.split(" ").map(Number);
    return api.diff(session, one, other);
  }, [session, rested]);
  return (
    <>
      <Field label="From the state after event" help={`To the chosen one, ${number(to)}.`}>
        {(ids) => (
          <input
            {...ids}
            type="number"
            min={0}
            max={head}
            value={from}
            onInput={(event) => {
              const { valueAsNumber } = event.currentTarget;
              if (Number.isInteger(valueAsNumber)) onFrom(Math.max(0, Math.min(head, valueAsNumber)));
            }}
          />
        )}
      </Field>
      <Async of={loaded} lines={4}>
        {(diff) => {
          const lines = linesOf(diff);
          if (lines.length === 0) return <Empty icon="check" title="The same state at both events" />;
          return (
            <ul class="diff" aria-label={`${count(lines.length, "difference")} from event ${diff.from_seq} to ${diff.to_seq}`}>
              {lines.map((line, at) => (
                <DiffRow key={at} line={line} />
              ))}
            </ul>
          );
        }}
      </Async>
    </>
  );
}

function DiffRow({ line }: { line: DiffLine }) {
  if (line.kind === "status" || line.kind === "variable") {
    const { before, after } = line.change;
    return (
      <li class="changed">
        <strong>{line.kind === "status" ? "Status" : line.name}</strong>
        <del>{before === null ? "none" : inLine(before)}</del>
        <ins>{after === null ? "none" : inLine(after)}</ins>
      </li>
    );
  }
  return (
    <li class={line.isAdded ? "added" : "removed"}>
      <span class="sign" aria-hidden="true">
        {line.isAdded ? "+" : "−"}
      </span>
      <span class="hidden">{line.isAdded ? "Added: " : "Removed: "}</span>
      <span class="seq">{number(line.seq)}</span>
      <span>{describe(line)}</span>
    </li>
  );
}

function describe(line: Extract<DiffLine, { seq: number }>): string {
  switch (line.kind) {
    case "message":
      return `${line.item.role}: ${oneLine(line.item.content, 400)}`;
    case "call":
      return `calls ${line.item.tool}`;
    case "result":
      return `${line.item.tool} ${line.item.ok ? "ok" : `failed: ${line.item.error ?? ""}`}, ${duration(line.item.duration_ms)}`;
    case "error":
      return `${line.item.type}: ${oneLine(line.item.message)}`;
  }
}
