/** Small parts that all pages share. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { asApiError } from "../api/problem";
import { traceAddress } from "../lib/account";
import { ago, dateTime, shortId } from "../lib/format";
import { now } from "../lib/hooks";
import { say, saying } from "../lib/saying";
import { Icon, type IconName } from "./icon";

export type Tone = "neutral" | "info" | "good" | "warn" | "bad";

const TONES: Record<Exclude<Tone, "neutral">, readonly string[]> = {
  good: ["success", "approved", "completed", "done", "finished", "compensated", "resolved", "approve", "low", "allowed"],
  warn: ["queued", "pending", "medium", "interrupted", "awaiting_approval", "waiting_for_approval", "compensating", "offered"],
  bad: ["parked", "timeout", "error", "failed", "rejected", "reject", "high", "compensation_failed", "changed", "gone"],
  info: ["running", "edit"],
};
const TONE_OF = new Map(Object.entries(TONES).flatMap(([tone, words]) => words.map((word) => [word, tone as Tone])));

export function toneOf(status: string): Tone {
  return TONE_OF.get(status) ?? "neutral";
}

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

/** A status in its colour; the word says it, too. */
export function Status({ value }: { value: string }) {
  return <Badge tone={toneOf(value)}>{value.replaceAll("_", " ")}</Badge>;
}

interface ButtonProps {
  children: ComponentChildren;
  onClick?: () => void;
  type?: "button" | "submit";
  variant?: "primary" | "plain" | "danger" | "quiet";
  icon?: IconName;
  isBusy?: boolean;
  disabled?: boolean | undefined;
  label?: string;
  title?: string;
  isSmall?: boolean;
  pressed?: boolean;
}

export function Button(props: ButtonProps) {
  const { variant = "plain", isBusy = false, isSmall = false, type = "button" } = props;
  return (
    <button
      type={type}
      class={`button ${variant}${isSmall ? " small" : ""}`}
      disabled={(props.disabled ?? false) || isBusy}
      aria-busy={isBusy}
      aria-label={props.label}
      aria-pressed={props.pressed}
      title={props.title}
      onClick={props.onClick}
    >
      {isBusy ? <span class="spinner" aria-hidden="true" /> : props.icon && <Icon name={props.icon} />}
      <span class="button-text">{props.children}</span>
    </button>
  );
}

interface PageProps {
  title: string;
  /** Beside the title. */
  aside?: ComponentChildren;
  lead?: ComponentChildren;
  children: ComponentChildren;
  isWide?: boolean;
}

export function Page({ title, aside, lead, children, isWide = false }: PageProps) {
  return (
    <div class={isWide ? "page wide" : "page"}>
      <header class="page-head">
        <div>
          <h1 tabIndex={-1}>{title}</h1>
          {lead !== undefined && <div class="lead">{lead}</div>}
        </div>
        {aside !== undefined && <div class="page-aside">{aside}</div>}
      </header>
      {children}
    </div>
  );
}

interface CardProps {
  title?: ComponentChildren;
  aside?: ComponentChildren;
  children: ComponentChildren;
  class?: string;
}

export function Card({ title, aside, children, class: extra = "" }: CardProps) {
  const id = useId();
  return (
    <section class={`card ${extra}`} aria-labelledby={title === undefined ? undefined : id}>
      {title !== undefined && (
        <div class="card-head">
          <h2 id={id}>{title}</h2>
          {aside}
        </div>
      )}
      {children}
    </section>
  );
}

/** A problem document: what happened, what to do, and the trace to ask about. */
export function Problem({ error, onRetry }: { error: unknown; onRetry?: () => void }) {
  if (error === null || error === undefined) return null;
  const problem = asApiError(error);
  const trace = problem.traceId === null ? null : traceAddress(problem.traceId);
  return (
    <div class="problem" role="alert">
      <Icon name="warn" />
      <div>
        <strong>{problem.title}</strong>
        <p>{problem.message}</p>
        {problem.errors.length > 1 && (
          <ul>
            {problem.errors.map((one) => (
              <li key={one.pointer}>
                <code>{one.pointer}</code> {one.detail}
              </li>
            ))}
          </ul>
        )}
        {problem.hint !== null && <p class="hint">{problem.hint}</p>}
        {problem.traceId !== null && (
          <p class="faint">
            Trace {trace === null ? <code>{problem.traceId}</code> : <ExternalLink href={trace}>{problem.traceId}</ExternalLink>}
          </p>
        )}
        {onRetry && (
          <Button isSmall onClick={onRetry}>
            Try again
          </Button>
        )}
      </div>
    </div>
  );
}

export function Empty({ icon, title, children }: { icon: IconName; title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <Icon name={icon} />
      <p class="empty-title">{title}</p>
      {children !== undefined && <div class="empty-text">{children}</div>}
    </div>
  );
}

/** Grey bars where content will be. */
export function Loading({ lines = 4, label = "Loading" }: { lines?: number; label?: string }) {
  return (
    <div class="loading" role="status">
      <span class="hidden">{label}</span>
      {Array.from({ length: lines }, (_, at) => (
        <div key={at} class="bone" aria-hidden="true" />
      ))}
    </div>
  );
}

interface AsyncProps<T> {
  of: { data: T | null; error: unknown; isLoading: boolean; reload: () => Promise<void> };
  lines?: number;
  children: (data: T) => ComponentChildren;
}

/** Loading, failed, or there. What is there stays while its reload fails, below the problem. */
export function Async<T>({ of, lines = 4, children }: AsyncProps<T>) {
  return (
    <>
      <Problem error={of.error} onRetry={() => void of.reload()} />
      {of.data !== null ? children(of.data) : of.isLoading && <Loading lines={lines} />}
    </>
  );
}

/** A moment, as its distance from now; the exact time is in the title. */
export function When({ at }: { at: string }) {
  return (
    <time dateTime={at} title={dateTime(at)}>
      {ago(at, now.value)}
    </time>
  );
}

export function Id({ value, href }: { value: string; href?: string }) {
  const text = shortId(value);
  const title = text === value ? undefined : value;
  return href === undefined ? (
    <code title={title}>{text}</code>
  ) : (
    <a href={href} title={title} class="mono">
      {text}
    </a>
  );
}

export function ExternalLink({ href, children }: { href: string; children: ComponentChildren }) {
  return (
    <a href={href} target="_blank" rel="noopener noreferrer" class="external">
      {children}
      <Icon name="external" />
      <span class="hidden"> (opens in a new tab)</span>
    </a>
  );
}

export function Copy({ text, label }: { text: string; label: string }) {
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setCopied(false), 2000);
    return () => clearTimeout(timer);
  }, [isCopied]);
  const copy = () => {
    navigator.clipboard.writeText(text).then(
      () => setCopied(true),
      () => say("The browser does not allow copying here."),
    );
  };
  return (
    <button type="button" class="icon-button" aria-label={label} title={label} onClick={copy}>
      <Icon name={isCopied ? "check" : "copy"} />
    </button>
  );
}

export type Fact = [term: string, value: ComponentChildren];

/** Terms and their values; false leaves one out. */
export function Facts({ items }: { items: (Fact | false)[] }) {
  return (
    <dl class="facts">
      {items.filter((item) => item !== false).map(([term, value]) => (
        <div key={term}>
          <dt>{term}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

interface TabsProps<Name extends string> {
  label: string;
  tabs: { name: Name; title: ComponentChildren }[];
  current: Name;
  onChange: (name: Name) => void;
  children: ComponentChildren;
}

/** Tabs after the ARIA pattern: arrows move, the panel follows. */
export function Tabs<Name extends string>({ label, tabs, current, onChange, children }: TabsProps<Name>) {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const at = tabs.findIndex((tab) => tab.name === current);
    const next = (at + step + tabs.length) % tabs.length;
    const tab = tabs[next];
    if (tab !== undefined) onChange(tab.name);
    list.current?.querySelectorAll<HTMLElement>("[role=tab]")[next]?.focus();
  };
  return (
    <div class="tabs">
      <div class="tab-list" role="tablist" aria-label={label} ref={list} onKeyDown={onKeyDown}>
        {tabs.map((tab) => (
          <button
            key={tab.name}
            type="button"
            role="tab"
            id={`${id}-${tab.name}`}
            aria-selected={tab.name === current}
            aria-controls={`${id}-panel`}
            tabIndex={tab.name === current ? 0 : -1}
            onClick={() => onChange(tab.name)}
          >
            {tab.title}
          </button>
        ))}
      </div>
      <div class="tab-panel" role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${current}`} tabIndex={0}>
        {children}
      </div>
    </div>
  );
}

interface FieldProps {
  label: string;
  help?: ComponentChildren;
  error?: string | undefined;
  children: (ids: { id: string; "aria-describedby": string | undefined; "aria-invalid": boolean }) => ComponentChildren;
}

/** A labelled control with its help and its error. */
export function Field({ label, help, error, children }: FieldProps) {
  const id = useId();
  const described = [help === undefined ? null : `${id}-help`, error === undefined ? null : `${id}-error`];
  const describedBy = described.filter((one) => one !== null).join(" ");
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({
        id,
        "aria-describedby": describedBy === "" ? undefined : describedBy,
        "aria-invalid": error !== undefined,
      })}
      {help !== undefined && (
        <p class="field-help" id={`${id}-help`}>
          {help}
        </p>
      )}
      {error !== undefined && (
        <p class="field-error" id={`${id}-error`}>
          {error}
        </p>
      )}
    </div>
  );
}

/** Shows what is said. */
export function Announcer() {
  const { text, turn } = saying.value;
  useEffect(() => {
    const timer = setTimeout(() => {
      if (saying.value.turn === turn) saying.value = { text: "", turn };
    }, 6000);
    return () => clearTimeout(timer);
  }, [turn]);
  return (
    <div class="toast" role="status" aria-live="polite">
      {text !== "" && <p key={turn}>{text}</p>}
    </div>
  );
}

/** A button that loads the next page of a listing. */
export function More({ cursor, onMore }: { cursor: string | null; onMore: (cursor: string) => Promise<void> }) {
  const [isBusy, setBusy] = useState(false);
  if (cursor === null) return null;
  const more = () => {
    setBusy(true);
    void onMore(cursor).finally(() => setBusy(false));
  };
  return (
    <div class="more">
      <Button onClick={more} isBusy={isBusy}>
        Show more
      </Button>
    </div>
  );
}
