/** Numbers, times and sizes as people read them. */

const NUMBER = new Intl.NumberFormat("en");
const DATE_TIME = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});
const SHORT_DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "long" });
const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

export function number(value: number): string {
  return NUMBER.format(value);
}

/** `1 event`, `2 events`. */
export function count(value: number, one: string, many = `${one}s`): string {
  return `${NUMBER.format(value)} ${value === 1 ? one : many}`;
}

/** Who asked: the person and, where one acted for them, the service. */
export function whoAsked(person: string, service: string | null): string {
  return service === null ? person : `${person}, through ${service}`;
}

export function dateTime(iso: string): string {
  return DATE_TIME.format(new Date(iso));
}

export function clock(iso: string): string {
  return CLOCK.format(new Date(iso));
}

export function shortDate(iso: string): string {
  return SHORT_DATE.format(new Date(iso));
}

/** `3 minutes ago`, `in 2 hours`, `now`. */
export function ago(iso: string, now: number): string {
  const seconds = (new Date(iso).getTime() - now) / 1000;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return AGO.format(Math.trunc(seconds / length), unit);
  }
  return Math.abs(seconds) < 10 ? "now" : AGO.format(Math.trunc(seconds), "second");
}

/** `950 µs`, `12 ms`, `1.24 s`, `3 min 5 s`, `2 h 4 min`. */
export function duration(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(2)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

export interface Countdown {
  text: string;
  isOver: boolean;
  /** Under ten minutes. */
  isUrgent: boolean;
}

/** What is left until a deadline, to the second. */
export function countdown(deadline: string, now: number): Countdown {
  const left = Math.ceil((new Date(deadline).getTime() - now) / 1000);
  if (left <= 0) return { text: "the deadline has passed", isOver: true, isUrgent: true };
  const days = Math.floor(left / 86_400);
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
  const rest = `${two((left % 86_400) / 3600)}:${two((left % 3600) / 60)}:${two(left % 60)}`;
  return { text: days > 0 ? `${days} d ${rest}` : rest, isOver: false, isUrgent: left < 600 };
}

export function bytes(size: number): string {
  if (size < 1000) return `${size} B`;
  if (size < 1_000_000) return `${(size / 1000).toFixed(1)} kB`;
  return `${(size / 1_000_000).toFixed(1)} MB`;
}

export function percent(part: number): string {
  return `${Math.round(part * 100)}%`;
}

/** The last part of a path or address, for people. */
export function lastPart(uri: string): string {
  const parts = uri.split("/").filter((part) => part !== "");
  return parts.at(-1) ?? uri;
}

/** The beginning of a long id: enough to tell two apart, since the rest is in the title. */
export function shortId(id: string): string {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-/.test(id) ? `${id.slice(0, 8)}…${id.slice(-6)}` : id;
}

/** `wait_for_approval` as `Wait for approval`. */
export function words(name: string): string {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
