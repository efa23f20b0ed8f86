/** Loading and following, with the three states that every page shows: loading, failed, there. */

import { signal, useSignal } from "@preact/signals";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Page } from "../api/calls";
import { isAbort } from "../api/client";

export interface Loaded<T> {
  data: T | null;
  error: unknown;
  isLoading: boolean;
  reload: () => Promise<void>;
  /** Replaces what is shown, after a change that answered with the new value. */
  set: (data: T) => void;
}

/**
 * What `load` gives, loaded again when `deps` change and each `pollMs` while the page can be seen. What was loaded
 * stays while it is loaded again, also when that fails.
 */
export function useLoaded<T>(load: () => Promise<T>, deps: readonly unknown[], pollMs?: number): Loaded<T> {
  const [state, setState] = useState<{ data: T | null; error: unknown; isLoading: boolean }>(LOADING);
  const turn = useRef(0);
  const latest = useRef(load);
  latest.current = load;

  const reload = useCallback(async () => {
    const mine = ++turn.current;
    try {
      const data = await latest.current();
      if (mine === turn.current) setState({ data, error: null, isLoading: false });
    } catch (error) {
      if (mine === turn.current && !isAbort(error)) setState(({ data }) => ({ data, error, isLoading: false }));
    }
  }, []);
  const set = useCallback((data: T) => {
    turn.current += 1;
    setState({ data, error: null, isLoading: false });
  }, []);

  useEffect(() => {
    setState(LOADING);
    void reload();
    return () => void (turn.current += 1);
  }, deps);
  usePoll(reload, pollMs);
  return { ...state, reload, set };
}

/**
 * A listing, page by page. The first page is loaded again each `pollMs`; once there are more, they stay as they are
 * until something is changed or asked for again.
 */
export function usePages<Name extends string, T>(
  name: Name,
  load: (cursor?: string) => Promise<Page<Name, T>>,
  deps: readonly unknown[],
  pollMs?: number,
): Loaded<Page<Name, T>> & { more: (cursor: string) => Promise<void> } {
  const [isLonger, setLonger] = useState(false);
  const loaded = useLoaded(
    () => {
      setLonger(false);
      return load();
    },
    deps,
    isLonger ? undefined : pollMs,
  );
  const more = async (cursor: string) => {
    const next = await load(cursor);
    setLonger(true);
    loaded.set({ ...next, [name]: [...(loaded.data?.[name] ?? []), ...next[name]] });
  };
  return { ...loaded, more };
}

const LOADING = { data: null, error: null, isLoading: true };

/** Calls `act` each `ms` after the last call ended, while the page can be seen; at once when it is seen again. */
export function usePoll(act: () => Promise<void>, ms: number | undefined): void {
  const latest = useRef(act);
  latest.current = act;
  useEffect(() => {
    if (ms === undefined) return undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isOver = false;
    const next = () => {
      clearTimeout(timer);
      if (!isOver && !document.hidden) timer = setTimeout(() => void latest.current().finally(next), ms);
    };
    const seen = () => {
      if (!document.hidden) void latest.current().finally(next);
    };
    document.addEventListener("visibilitychange", seen);
    next();
    return () => {
      isOver = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [ms]);
}

export interface Acting {
  isBusy: boolean;
  error: unknown;
  /** Runs one thing at a time; true when it succeeded. */
  run: (act: () => Promise<unknown>) => Promise<boolean>;
  clear: () => void;
}

/** One button's work: busy while it runs, and what went wrong. */
export function useActing(): Acting {
  const isBusy = useSignal(false);
  const error = useSignal<unknown>(null);
  const run = useCallback(async (act: () => Promise<unknown>) => {
    if (isBusy.value) return false;
    isBusy.value = true;
    error.value = null;
    try {
      await act();
      return true;
    } catch (problem) {
      error.value = problem;
      return false;
    } finally {
      isBusy.value = false;
    }
  }, []);
  const clear = useCallback(() => void (error.value = null), []);
  return { isBusy: isBusy.value, error: error.value, run, clear };
}

/** A value that follows `value` once it rested for `ms`. */
export function useRested<T>(value: T, ms: number): T {
  const [rested, setRested] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setRested(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return rested;
}

/** The time, to the second, for countdowns and ages. */
export const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);
document.addEventListener("visibilitychange", () => (now.value = Date.now()));

/** Whether a media query holds. */
export function useMedia(query: string): boolean {
  const [holds, setHolds] = useState(() => window.matchMedia(query).matches);
  useEffect(() => {
    const list = window.matchMedia(query);
    const changed = () => setHolds(list.matches);
    changed();
    list.addEventListener("change", changed);
    return () => list.removeEventListener("change", changed);
  }, [query]);
  return holds;
}

/** Sets the page's title; a pending count comes before it (see `shell`). */
export const pageTitle = signal("Flotilla");

export function useTitle(title: string): void {
  useEffect(() => void (pageTitle.value = title), [title]);
}
