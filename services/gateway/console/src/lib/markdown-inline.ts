/** What is inside a line of Markdown: emphasis, code, links, citations. Read in one pass, forwards only. */

export type Inline =
  | { kind: "text"; text: string }
  | { kind: "code"; text: string }
  | { kind: "strong" | "em"; children: Inline[] }
  | { kind: "link"; href: string; children: Inline[] }
  | { kind: "citation"; number: number };

const DEEPEST = 8;
const LONGEST_LABEL = 1000;
const LONGEST_ADDRESS = 2000;
const CITATION = /^\[(\d{1,3})\](?![([])/;
const BARE_BEGINS = /^https?:\/\/(?=[^\s<>"'`\])}])/;
const NOT_IN_BARE = /[\s<>"'`\])}]/;
const NOT_LAST_IN_BARE = ".,;:!?";
const PUNCTUATION = /^[!-/:-@[-`{-~]$/;
const LONGEST_BEGINNING = 8;

type Taken = [Inline | string, number] | null;

/** The inline parts of one paragraph. */
export function inline(text: string, depth = 0): Inline[] {
  return new Line(text, depth).parts();
}

/** One paragraph's text. What it remembers of failed searches is why no part of it is searched again. */
class Line {
  private readonly found: Inline[] = [];
  private readonly unclosed = new Set<string>();
  private plain: string[] = [];

  constructor(
    private readonly text: string,
    private readonly depth: number,
  ) {}

  parts(): Inline[] {
    for (let at = 0; at < this.text.length; ) {
      const special = this.depth < DEEPEST ? this.specialAt(at) : null;
      const [part, length] = special ?? [this.text.charAt(at), 1];
      if (typeof part === "string") this.plain.push(part);
      else this.add(part);
      at += length;
    }
    this.flush();
    return this.found;
  }

  private add(part: Inline) {
    this.flush();
    this.found.push(part);
  }

  private flush() {
    if (this.plain.length > 0) this.found.push({ kind: "text", text: this.plain.join("") });
    this.plain = [];
  }

  private specialAt(at: number): Taken {
    const character = this.text.charAt(at);
    switch (character) {
      case "\\":
        return PUNCTUATION.test(this.text.charAt(at + 1)) ? [this.text.charAt(at + 1), 2] : null;
      case "`":
        return this.code(at);
      case "!":
      case "[":
        return this.citation(at) ?? this.link(at);
      case "h":
        return this.isInWord(at) ? null : this.bareLink(at);
      case "*":
      case "_":
        if (character === "_" && this.isInWord(at)) return null; // snake_case
        return this.strong(at, character) ?? this.emphasis(at, character);
      default:
        return null;
    }
  }

  private isInWord(at: number): boolean {
    return /\w/.test(this.text.charAt(at - 1));
  }

  private code(at: number): Taken {
    const { text } = this;
    const mark = "`".repeat(runLength(text, at));
    const from = at + mark.length;
    // A run of other length closes nothing, and is skipped whole.
    for (let next = this.next("`", from); next !== -1; ) {
      const length = runLength(text, next);
      if (length === mark.length) return [{ kind: "code", text: text.slice(from, next).trim() }, next + length - at];
      if (this.unclosed.has(mark)) break;
      next = this.next("`", next + length);
    }
    this.unclosed.add(mark);
    return [mark, mark.length];
  }

  private next(mark: string, from: number): number {
    return this.text.indexOf(mark, from);
  }

  private citation(at: number): Taken {
    const match = CITATION.exec(this.text.slice(at, at + LONGEST_BEGINNING));
    return match === null ? null : [{ kind: "citation", number: Number(match[1]) }, match[0].length];
  }

  private link(at: number): Taken {
    const { text } = this;
    const isImage = text.charAt(at) === "!";
    const opening = isImage ? at + 1 : at;
    if (text.charAt(opening) !== "[") return null;
    const closing = endOfLabel(text, opening);
    const target = closing === null || text.charAt(closing + 1) !== "(" ? null : targetAt(text, closing + 2);
    if (closing === null || target === null) return null;
    const label = text.slice(opening + 1, closing);
    const length = target.end - at;
    // An image would be a request to wherever the model says.
    if (isImage) return [label === "" ? "[image]" : `[image: ${label}]`, length];
    const href = safeAddress(target.address);
    if (href === null) return [text.slice(at, target.end), length];
    return [{ kind: "link", href, children: inline(label, this.depth + 1) }, length];
  }

  private bareLink(at: number): Taken {
    const { text } = this;
    const scheme = BARE_BEGINS.exec(text.slice(at, at + LONGEST_BEGINNING + 1))?.[0];
    if (scheme === undefined) return null;
    const most = Math.min(text.length, at + LONGEST_ADDRESS);
    let end = at + scheme.length;
    while (end < most && !NOT_IN_BARE.test(text.charAt(end))) end += 1;
    while (NOT_LAST_IN_BARE.includes(text.charAt(end - 1))) end -= 1;
    if (end < at + scheme.length + 2) return null;
    const href = text.slice(at, end);
    if (safeAddress(href) === null) return [href, end - at];
    return [{ kind: "link", href, children: [{ kind: "text", text: href }] }, end - at];
  }

  private strong(at: number, character: string): Taken {
    const { text } = this;
    const mark = character + character;
    if (!text.startsWith(mark, at) || isSpace(text.charAt(at + 2)) || this.unclosed.has(mark)) return null;
    for (let next = this.next(mark, at + 3); next !== -1; next = this.next(mark, next + 1)) {
      if (!isSpace(text.charAt(next - 1)))
        return [{ kind: "strong", children: inline(text.slice(at + 2, next), this.depth + 1) }, next + 2 - at];
    }
    this.unclosed.add(mark);
    return null;
  }

  /** Up to the next mark, over whole `**strong**` parts. */
  private emphasis(at: number, character: string): Taken {
    const { text } = this;
    if (isSpaceOrMark(text.charAt(at + 1)) || this.unclosed.has(character)) return null;
    for (let next = at + 1; next < text.length; ) {
      const found = text.charAt(next);
      if (found === "*" && text.charAt(next + 1) === "*") {
        const closing = this.next("*", next + 2);
        if (closing <= next + 2 || text.charAt(closing + 1) !== "*") return null;
        next = closing + 2;
      } else if (found === "*" || found === "_") {
        if (found !== character || isSpaceOrMark(text.charAt(next - 1))) return null;
        return [{ kind: "em", children: inline(text.slice(at + 1, next), this.depth + 1) }, next + 1 - at];
      } else next += 1;
    }
    this.unclosed.add(character);
    return null;
  }
}

function runLength(text: string, at: number): number {
  let end = at;
  while (text.charAt(end) === "`") end += 1;
  return end - at;
}

/** Where the label that opens at `opening` ends; brackets in it are one deep. */
function endOfLabel(text: string, opening: number): number | null {
  const most = Math.min(text.length, opening + LONGEST_LABEL);
  let isNested = false;
  for (let at = opening + 1; at < most; at += 1) {
    const character = text.charAt(at);
    if (character === "\\" && !isNested) at += 1;
    else if (character === "[") {
      if (isNested) return null;
      isNested = true;
    } else if (character === "]") {
      if (!isNested) return at;
      isNested = false;
    }
  }
  return null;
}

/** The address, and where its closing bracket ends: `(address "title")`, from behind the opening bracket. */
function targetAt(text: string, from: number): { address: string; end: number } | null {
  let at = skipSpace(text, from);
  if (text.charAt(at) === "<") at += 1;
  const begin = at;
  const most = Math.min(text.length, begin + LONGEST_ADDRESS);
  for (let isNested = false; at < most && (isNested || text.charAt(at) !== ")"); at += 1) {
    const character = text.charAt(at);
    if (isSpace(character) || character === "<" || character === ">") break;
    if (character === "(" && isNested) return null;
    isNested = character === "(" || (isNested && character !== ")");
  }
  const address = text.slice(begin, at);
  if (text.charAt(at) === ">") at += 1;
  at = skipTitle(text, skipSpace(text, at));
  return text.charAt(at) === ")" ? { address, end: at + 1 } : null;
}

function skipTitle(text: string, at: number): number {
  if (text.charAt(at) !== '"') return at;
  const closing = text.slice(at + 1, at + LONGEST_LABEL).indexOf('"');
  return closing === -1 ? at : skipSpace(text, at + closing + 2);
}

/** Behind the white space at `at`, of which a link has little. */
function skipSpace(text: string, at: number): number {
  const most = at + LONGEST_LABEL;
  let end = at;
  while (end < most && isSpace(text.charAt(end))) end += 1;
  return end;
}

function isSpace(character: string): boolean {
  return character === "" || /\s/.test(character);
}

function isSpaceOrMark(character: string): boolean {
  return isSpace(character) || character === "*" || character === "_";
}

/** The address if it is one that may be followed: http, https or mailto, without a user name that looks like a host; else null. */
export function safeAddress(address: string): string | null {
  if (!URL.canParse(address)) return null;
  const { protocol, username, password } = new URL(address);
  const isFollowed = ["http:", "https:", "mailto:"].includes(protocol) && username === "" && password === "";
  return isFollowed ? address : null;
}

/** Where a link leads, unless its label shows that itself. The label is whatever a document or a model says. */
export function hiddenDestination(href: string, label: string): string | null {
  const { protocol, host, pathname } = new URL(href);
  if (protocol === "mailto:") return label === pathname ? null : pathname;
  return label === href && href.startsWith(`${protocol}//${host}`) ? null : host;
}
