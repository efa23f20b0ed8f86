import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "../api/calls";
import { ApiError } from "../api/problem";
import type { Run, MessageEntry } from "../api/types";
import { mayOperate } from "../lib/account";
import { useFollowedRun } from "../lib/follow-run";
import { count, number } from "../lib/format";
import { useActing, useLoaded, useTitle } from "../lib/hooks";
import { randomKey } from "../lib/keys";
import { currentQuery, setQuery } from "../lib/router";
import type { RunView } from "../lib/run-view";
import { Answer, MessageText } from "../ui/answer";
import { Feedback } from "../ui/feedback";
import { Icon } from "../ui/icon";
import { JsonView } from "../ui/json";
import { Markdown } from "../ui/markdown";
import { Badge, Button, Empty, Id, Loading, Page, Problem, Status } from "../ui/parts";

interface Asked {
  runId: string;
  query: string;
}

export function AskPage() {
  useTitle("Ask");
  const query = currentQuery.value;
  const session = query.get("session");
  const run = query.get("run");
  const [asked, setAsked] = useState<Asked[]>(run === null ? [] : [{ runId: run, query: "" }]);
  // When the address is changed by a link (Ask in the navigation), the page starts over.
  const own = useRef(session);
  useEffect(() => {
    if (own.current !== session) setAsked(run === null ? [] : [{ runId: run, query: "" }]);
    own.current = session;
  }, [session, run]);

  const onAsked = (sessionId: string, one: Asked) => {
    own.current = sessionId;
    setAsked((before) => [...before, one]);
    setQuery({ session: sessionId, run: one.runId });
  };
  return (
    <Page
      title="Ask"
      lead={session === null ? "Answers come from the documents, with their sources." : <SessionLead id={session} />}
      aside={
        session !== null && (
          <a class="button plain" href="/ask">
            <span class="button-text">New conversation</span>
          </a>
        )
      }
    >
      <div class="conversation">
        {session !== null && <Earlier key={session} session={session} without={asked.map((one) => one.runId)} />}
        {asked.map((one) => (
          <Turn key={one.runId} asked={one} />
        ))}
        {session === null && asked.length === 0 && (
          <Empty icon="ask" title="What would you like to know?">
            The answer streams in as it is written, and every step of it is recorded in a session.
          </Empty>
        )}
      </div>
      {mayOperate.value ? (
        <Question session={session} onAsked={onAsked} />
      ) : (
        <p class="note">Your roles let you read conversations, not ask. That takes the role operator.</p>
      )}
    </Page>
  );
}

function SessionLead({ id }: { id: string }) {
  return (
    <>
      Session <Id value={id} href={`/sessions/${encodeURIComponent(id)}`} />: what was said before is part of the question.
    </>
  );
}

/** As the gateway counts them. No `maxLength`: the browser would cut what is pasted without a word. */
const MAX_QUESTION = 32_000;

function excessOf(text: string): number {
  return text.length > MAX_QUESTION ? Math.max(0, Array.from(text).length - MAX_QUESTION) : 0;
}

function Question({ session, onAsked }: { session: string | null; onAsked: (id: string, one: Asked) => void }) {
  const [text, setText] = useState("");
  const acting = useActing();
  const box = useRef<HTMLTextAreaElement>(null);
  // Asking the same again after a lost answer must not start a second run.
  const attempt = useRef({ text: "", key: "" });
  useEffect(() => box.current?.focus({ preventScroll: true }), []);

  const query = text.trim();
  const excess = excessOf(query);
  const ask = async () => {
    if (query === "" || excess > 0) return;
    if (attempt.current.text !== query) attempt.current = { text: query, key: randomKey() };
    const isDone = await acting.run(async () => {
      const id = session ?? (await api.createSession()).session_id;
      const run = await api.startRun(id, query, attempt.current.key);
      attempt.current = { text: "", key: "" };
      onAsked(id, { runId: run.run_id, query });
    });
    if (isDone) setText("");
    box.current?.focus({ preventScroll: true });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    void ask();
  };
  return (
    <form
      class="question"
      onSubmit={(event) => {
        event.preventDefault();
        void ask();
      }}
    >
      <Problem error={acting.error} />
      <div class="question-box">
        <label for="question" class="hidden">
          Your question
        </label>
        <textarea
          id="question"
          ref={box}
          rows={2}
          placeholder="Ask a question…"
          aria-describedby="question-help"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        <Button type="submit" variant="primary" icon="send" isBusy={acting.isBusy} disabled={query === "" || excess > 0}>
          Ask
        </Button>
      </div>
      <p class={excess > 0 ? "field-error" : "field-help"} id="question-help" role="status">
        {excess > 0
          ? `${count(excess, "character")} too many: a question has at most ${number(MAX_QUESTION)}.`
          : "Enter asks, Shift+Enter makes a new line."}
      </p>
    </form>
  );
}

/** What was said in the session before this page was opened. */
function Earlier({ session, without }: { session: string; without: string[] }) {
  const loaded = useLoaded(() => earlierMessages(session), [session]);
  // What is asked here is shown by its run; what was there before stays.
  const shown = (loaded.data ?? []).filter((one) => one.run_id === null || !without.includes(one.run_id));
  return (
    <>
      <Problem error={loaded.error} onRetry={() => void loaded.reload()} />
      {loaded.isLoading && <Loading lines={3} />}
      {shown.map((one) => (
        <article key={one.seq} class={`turn ${one.role}`}>
          <h2 class="turn-who">{one.role === "user" ? "Question" : one.role === "assistant" ? "Answer" : one.role}</h2>
          <MessageText role={one.role} content={one.content} sources={one.sources} />
        </article>
      ))}
    </>
  );
}

const EARLIER = 40;

async function earlierMessages(session: string): Promise<MessageEntry[]> {
  try {
    const { head_seq } = await api.getSession(session);
    return (await api.stateAt(session, head_seq)).messages.slice(-EARLIER);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return []; // named, but not begun
    throw error;
  }
}

/** A question that was asked here, and its answer as it comes. */
function Turn({ asked }: { asked: Asked }) {
  const loaded = useLoaded(() => api.getRun(asked.runId), [asked.runId]);
  const run = loaded.data;
  const isOver = run !== null && !isActive(run);
  const followed = useFollowedRun(isOver ? null : asked.runId);
  const { status } = followed.view;
  useEffect(() => {
    if (status !== null) void loaded.reload();
  }, [status]);
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }), [isOver, followed.view.text === ""]);
  return (
    <>
      <article class="turn user">
        <h2 class="turn-who">Question</h2>
        <p class="plain-text">{run?.query ?? asked.query}</p>
      </article>
      <article class="turn assistant" aria-busy={!isOver}>
        <h2 class="turn-who">
          Answer
          {!isOver && !followed.isConnected && <Badge tone="warn">reconnecting…</Badge>}
        </h2>
        <Problem error={followed.error ?? loaded.error} onRetry={() => void loaded.reload()} />
        {isOver ? <Outcome run={run} /> : <Writing view={followed.view} />}
        <p class="turn-links">
          <a href={`/runs/${encodeURIComponent(asked.runId)}`}>How this answer came about</a>
        </p>
      </article>
      <div ref={end} />
    </>
  );
}

function Writing({ view }: { view: RunView }) {
  return (
    <>
      <ul class="steps" aria-label="Steps so far">
        {view.steps.map((one) => (
          <li key={`${one.step} ${one.attempt}`} class={one.status}>
            {one.status === "started" ? <span class="spinner" aria-hidden="true" /> : <Icon name={one.status === "failed" ? "warn" : "check"} />}
            {one.step.replaceAll("_", " ")} <span class="hidden">{one.status}</span>
            {one.attempt > 1 && <span class="faint">attempt {one.attempt}</span>}
          </li>
        ))}
      </ul>
      {view.text === "" ? <Loading lines={2} label="Waiting for the answer" /> : <Streaming text={view.text} />}
    </>
  );
}

function Streaming({ text }: { text: string }) {
  return (
    <div class="streaming" data-testid="streaming">
      <Markdown text={text} />
    </div>
  );
}

export function Outcome({ run }: { run: Run }) {
  if (run.result !== null)
    return (
      <>
        <Answer result={run.result} removed={run.removed_documents} />
        <Feedback runId={run.run_id} />
      </>
    );
  if (run.output !== null) return <JsonView value={run.output} label="Output" />;
  const message = run.error === null ? null : (run.error.message ?? null);
  return (
    <div class="outcome">
      <p>
        <Status value={run.status} /> {run.status === "cancelled" ? "The run was cancelled." : "There is no answer."}
      </p>
      {typeof message === "string" && <p class="plain-text">{message}</p>}
    </div>
  );
}

export function isActive(run: Run): boolean {
  return ["queued", "pending", "running", "interrupted"].includes(run.status);
}
