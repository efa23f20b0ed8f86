/** Addresses: one signal says where the console is; links are plain anchors that are followed without a reload. */

import { computed, signal } from "@preact/signals";

interface Place {
  path: string;
  search: string;
}

const place = signal<Place>(here());

export const currentPath = computed(() => place.value.path);
export const currentQuery = computed(() => new URLSearchParams(place.value.search));
/** Path and query, for coming back after signing in. */
export const currentAddress = computed(() => place.value.path + place.value.search);

function here(): Place {
  return { path: window.location.pathname, search: window.location.search };
}

/** Goes to an address of the console. */
export function navigate(to: string, { replace = false } = {}): void {
  if (to === here().path + here().search) return;
  window.history[replace ? "replaceState" : "pushState"](null, "", to);
  place.value = here();
}

/** Sets a part of the query, replacing the history entry; null takes it out. */
export function setQuery(changes: Record<string, string | number | null>): void {
  const query = new URLSearchParams(window.location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(name);
    else query.set(name, String(value));
  }
  const text = query.toString();
  navigate(window.location.pathname + (text === "" ? "" : `?${text}`), { replace: true });
}

/** The parts of `path` that `pattern` names (`/runs/:id`), or null when it is another. */
export function match(pattern: string, path: string): Record<string, string> | null {
  const wanted = pattern.split("/");
  const given = path.replace(/\/+$/, "").split("/");
  if (wanted.length !== given.length) return null;
  const found: Record<string, string> = {};
  for (const [at, part] of wanted.entries()) {
    const value = given[at] ?? "";
    if (part.startsWith(":")) found[part.slice(1)] = decoded(value);
    else if (part !== value) return null;
  }
  return found;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a stray %: the page will say that there is no such thing
  }
}

/** An address within the console that came from outside (`?next=`); anything else becomes `/`. */
export function safeNext(next: string | null): string {
  if (next?.startsWith("/") !== true || /^\/[/\\]/.test(next)) return "/";
  const url = new URL(next, window.location.origin);
  return url.origin === window.location.origin ? url.pathname + url.search : "/";
}

/** Follows clicks on the console's own links without a reload. */
export function startRouter(): void {
  window.addEventListener("popstate", () => (place.value = here()));
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const anchor = event.target instanceof Element ? event.target.closest("a") : null;
    if (anchor === null || !isOwn(anchor)) return;
    event.preventDefault();
    navigate(anchor.pathname + anchor.search);
  });
}

function isOwn(anchor: HTMLAnchorElement): boolean {
  const isServed = /^\/(v1|auth|docs|openapi\.json|asyncapi\.json)(\/|$)/.test(anchor.pathname);
  const isPlain = anchor.target === "" && !anchor.hasAttribute("download") && !anchor.hash;
  return anchor.origin === window.location.origin && isPlain && !isServed;
}
