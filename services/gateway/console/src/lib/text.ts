/** Offsets in documents count characters (code points); JavaScript's strings count UTF-16 units. */

export interface Cut {
  before: string;
  passage: string;
  after: string;
}

/** A text cut at two offsets in code points. */
export function cut(text: string, start: number, end: number): Cut {
  const from = unitOffset(text, start, 0);
  const to = unitOffset(text, end - start, from);
  return { before: text.slice(0, from), passage: text.slice(from, to), after: text.slice(to) };
}

/** The index in UTF-16 units that is `points` code points after `from`. */
function unitOffset(text: string, points: number, from: number): number {
  let at = from;
  for (let left = points; left > 0 && at < text.length; left -= 1) {
    const code = text.charCodeAt(at);
    const isPair = code >= 0xd800 && code <= 0xdbff && at + 1 < text.length;
    at += isPair ? 2 : 1;
  }
  return at;
}

/** One line of a longer text. */
export function oneLine(text: string, most = 300): string {
  const line = text.slice(0, most * 2).replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most)}…` : line;
}

/** The sentences of an answer that its sources do not support. */
export function unsupportedIn(
  answer: string,
  statements: readonly { start: number; end: number; supported: boolean | null }[],
): string[] {
  return statements.filter((one) => one.supported === false).map((one) => cut(answer, one.start, one.end).passage);
}
