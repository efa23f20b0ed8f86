export { type CallOptions, Flotilla, type Options, type Run, type RunAccepted, type RunEvent, type RunRequest } from "./client.js";
export { EventParser, type StreamEvent } from "./events.js";
export type { FollowOptions } from "./follow.js";
export { FlotillaError } from "./problem.js";
export type { components, operations, paths } from "./schema.js";
export { type BrowserToken, browserToken, type TokenSource } from "./tokens.js";
