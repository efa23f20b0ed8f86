/** Files of archived histories: exports (docs/operations.md), one behind the other, compressed. */

export interface ExportedEvent {
  seq: number;
  body: string;
}

interface Part {
  session: string;
  parent: string | null;
  after_seq: number;
}

interface Line {
  kind: string;
  session?: string;
  seq?: number;
  hash?: string;
  body?: string;
  tenant?: string;
  segments?: Part[];
  events?: number;
}

/** Larger files are for the command line: here they are in memory. */
export const MOST_BYTES = 200_000_000;
/** How the command line begins the compressed export of each session: browsers read one such member at a time. */
const MEMBER = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];

/** Whether this browser can do it: hashes are made on secure pages only. */
export const canReadArchives = (): boolean =>
  typeof CompressionStream !== "undefined" && (crypto as Partial<Crypto>).subtle !== undefined;

/** SHA-256 of a file, in hex. */
export async function digestOf(file: Blob): Promise<string> {
  return hex(await sha256(new Uint8Array(await file.arrayBuffer())));
}

/** Exports as the file of an archive. */
export function compressed(exports: readonly string[]): Promise<Blob> {
  const whole = new Blob([...exports]);
  return new Response(whole.stream().pipeThrough(new CompressionStream("gzip"))).blob();
}

/** A session's own events in an archive; none where it is not in there. Throws where the file is none. */
export async function eventsIn(file: Blob, session: string): Promise<ExportedEvent[]> {
  const events: ExportedEvent[] = [];
  let whose = "";
  for (const line of linesOf(await decompressed(file))) {
    if (line.kind === "header") whose = line.session ?? "";
    if (line.kind === "event" && whose === session && line.session === session) events.push(eventOf(line));
  }
  return events;
}

/** Throws unless the export is whole, and its chain leads from the session's beginning to this hash of its newest event. */
export async function checkExport(text: string, session: string, seq: number, hash: string): Promise<void> {
  const lines = linesOf(text);
  const [header, last] = [lines[0], lines.at(-1)];
  const part = header?.segments?.find((one) => one.session === session);
  const events = lines.filter((line) => line.kind === "event");
  if (header?.kind !== "header" || part === undefined || last?.kind !== "end" || last.events !== events.length) {
    throw new Error(`The export of session ${session} was cut off: try again.`);
  }
  const origin = [header.tenant ?? "", session, part.parent ?? "", String(part.after_seq)].join("\0");
  let [chained, reached] = [await sha256(utf8(origin)), part.after_seq];
  for (const event of events.filter((line) => line.session === session).map(eventOf)) {
    if (event.seq !== reached + 1) throw new Error(`Event ${reached + 1} of session ${session} is not in its export.`);
    chained = await sha256(joined(chained, utf8(event.body)));
    reached = event.seq;
  }
  if (reached !== seq || hex(chained) !== hash) {
    throw new Error(`The history of session ${session} is not what was committed up to event ${seq}, or it went on.`);
  }
}

/** Events in parts that one request may hold. */
export function inParts(events: readonly ExportedEvent[], most = 500, mostBytes = 1_000_000): ExportedEvent[][] {
  const parts: ExportedEvent[][] = [];
  let size = Infinity;
  for (const event of events) {
    const part = parts.at(-1);
    const bytes = utf8(JSON.stringify(event)).length;
    if (part === undefined || part.length === most || size + bytes > mostBytes) {
      parts.push([event]);
      size = bytes;
    } else {
      part.push(event);
      size += bytes;
    }
  }
  return parts;
}

function eventOf({ seq, body }: Line): ExportedEvent {
  if (seq === undefined || body === undefined) throw new Error("This is not the file of an archive.");
  return { seq, body };
}

function linesOf(text: string): Line[] {
  const lines = text.split("\n").filter((line) => line !== "");
  try {
    return lines.map((line) => JSON.parse(line) as Line);
  } catch {
    throw new Error("This is not the file of an archive.");
  }
}

async function decompressed(file: Blob): Promise<string> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const starts = membersOf(bytes);
  const texts: string[] = [];
  for (const [number, start] of starts.entries()) texts.push(await oneMember(file.slice(start, starts[number + 1])));
  return texts.join("");
}

async function oneMember(member: Blob): Promise<string> {
  try {
    return await new Response(member.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  } catch {
    throw new Error("This file is no archive, or it is damaged.");
  }
}

/** Where the members of the file begin. */
function membersOf(bytes: Uint8Array): number[] {
  const starts = [0];
  for (let at = bytes.indexOf(MEMBER[0] ?? 0, 1); at !== -1; at = bytes.indexOf(MEMBER[0] ?? 0, at + 1)) {
    if (MEMBER.every((byte, place) => bytes[at + place] === byte)) starts.push(at);
  }
  return starts;
}

const utf8 = (text: string) => new TextEncoder().encode(text);

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

const hex = (bytes: Uint8Array) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
