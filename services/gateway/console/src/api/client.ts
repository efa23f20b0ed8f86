/** Requests to the gateway. The cookie says who asks; the header says that this page asks (against forged requests). */

import { errorFrom, errorOf, noAnswer } from "./problem";

export const CONSOLE_HEADER = "X-Flotilla-Console";

export type Query = Record<string, string | number | boolean | null | undefined>;

interface Options {
  query?: Query;
  body?: unknown;
  signal?: AbortSignal | undefined;
  headers?: Record<string, string>;
}

let onSignedOut: () => void = () => undefined;

/** Says what to do when the gateway no longer knows who asks. */
export function whenSignedOut(act: () => void): void {
  onSignedOut = act;
}

/** The address of an API path with its query; null and undefined are left out. */
export function address(path: string, query: Query = {}): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") found.set(name, String(value));
  }
  const text = found.toString();
  return text === "" ? path : `${path}?${text}`;
}

/** A path of ids, each encoded: `path("/v1/sessions", id, "events")`. */
export function path(root: string, ...parts: (string | number)[]): string {
  return [root, ...parts.map((part) => encodeURIComponent(part))].join("/");
}

export function get<T>(to: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return send<T>("GET", to, { query, signal });
}

/** An answer in another format than JSON, as text. */
export async function getText(to: string, query: Query = {}): Promise<string> {
  return (await accepted("GET", to, { query, headers: { Accept: "*/*" } })).text();
}

export function post<T>(to: string, body?: unknown, options: Omit<Options, "body"> = {}): Promise<T> {
  return send<T>("POST", to, { ...options, body });
}

export function patch<T>(to: string, body: unknown): Promise<T> {
  return send<T>("PATCH", to, { body });
}

export function put<T>(to: string, body: unknown): Promise<T> {
  return send<T>("PUT", to, { body });
}

export function remove<T>(to: string): Promise<T> {
  return send<T>("DELETE", to, {});
}

async function send<T>(method: string, to: string, options: Options): Promise<T> {
  const response = await accepted(method, to, options);
  if (response.status === 204) return undefined as T;
  return (await response.json()) as T;
}

async function accepted(method: string, to: string, options: Options): Promise<Response> {
  const response = await answered(method, to, options);
  if (!response.ok) {
    if (response.status === 401 && to.startsWith("/v1/")) onSignedOut();
    throw await errorOf(response);
  }
  return response;
}

async function answered(method: string, to: string, options: Options): Promise<Response> {
  const headers: Record<string, string> = { Accept: "application/json", ...options.headers };
  if (method !== "GET") headers[CONSOLE_HEADER] = "1";
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(address(to, options.query), {
      method,
      headers,
      credentials: "same-origin",
      body: options.body === undefined ? null : JSON.stringify(options.body),
      signal: options.signal ?? null,
    });
  } catch (error) {
    if (options.signal?.aborted === true) throw error;
    throw noAnswer();
  }
}

/** Sends a file; `onProgress` gets the part that is sent, from 0 to 1. */
export function upload<T>(
  to: string,
  file: File,
  name: string,
  fields: Record<string, string>,
  onProgress: (part: number) => void,
): Promise<T> {
  const form = new FormData();
  for (const [field, value] of Object.entries(fields)) form.set(field, value);
  form.set("file", file, name);
  return new Promise((resolve, reject) => {
    // fetch does not tell how much of a body is sent.
    const request = new XMLHttpRequest();
    request.open("POST", to);
    request.setRequestHeader(CONSOLE_HEADER, "1");
    request.setRequestHeader("Accept", "application/json");
    request.upload.onprogress = (event) => {
      if (event.lengthComputable && event.total > 0) onProgress(event.loaded / event.total);
    };
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) {
        resolve(JSON.parse(request.responseText) as T);
        return;
      }
      if (request.status === 401) onSignedOut();
      const retryAfter = request.getResponseHeader("Retry-After");
      reject(errorFrom(request.status, request.statusText, request.responseText, retryAfter));
    };
    request.onerror = () => reject(noAnswer());
    request.send(form);
  });
}

/** Whether a thrown value only says that nobody waits for the answer any more. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
