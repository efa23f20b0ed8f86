import { AsyncLocalStorage } from "node:async_hooks";

/** The call of a tool that runs now: calls that its tool makes are made in it. */
export const runningCall = new AsyncLocalStorage<string>();
