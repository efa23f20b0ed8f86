/**
 * A small subset of Markdown as a tree: paragraphs, headings, lists, quotes, code, tables, rules; emphasis, code, links.
 *
 * Model output is untrusted. HTML stays text, images become their alternative text, and links keep only http, https
 * and mailto addresses. The tree holds strings only; `ui/markdown.tsx` makes nodes of it, never markup.
 */

export type Inline =
  | { kind: "text"; text: string }
  | { kind: "code"; text: string }
  | { kind: "strong" | "em"; children: Inline[] }
  | { kind: "link"; href: string; children: Inline[] }
  | { kind: "citation"; number: number };

export type Block =
  | { kind: "paragraph"; children: Inline[] }
  | { kind: "heading"; level: number; children: Inline[] }
  | { kind: "list"; ordered: boolean; start: number; items: Block[][] }
  | { kind: "quote"; children: Block[] }
  | { kind: "code"; text: string; language: string }
  | { kind: "table"; head: Inline[][]; rows: Inline[][][] }
  | { kind: "rule" };

const DEEPEST = 8;
const LONGEST = 200_000;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** The blocks of a text. Anything that is not understood stays text. */
export function parse(text: string): Block[] {
  if (text.length > LONGEST) return [{ kind: "code", text, language: "" }];
  return blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);
}

function blocks(lines: string[], depth: number): Block[] {
  const found: Block[] = [];
  let at = 0;
  while (at < lines.length) {
    const [block, next] = blockAt(lines, at, depth);
    if (block !== null) found.push(block);
    at = next;
  }
  return found;
}

type Taken = [Block | null, number];

function blockAt(lines: string[], at: number, depth: number): Taken {
  const line = lines[at] ?? "";
  if (line.trim() === "") return [null, at + 1];
  if (FENCE.test(line)) return fencedCode(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return [{ kind: "heading", level: heading[1]?.length ?? 1, children: inline(heading[2] ?? "") }, at + 1];
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (ITEM.test(line)) return list(lines, at, depth);
  }
  if (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? "") && (lines[at + 1] ?? "").includes("-"))
    return table(lines, at);
  return paragraph(lines, at, depth);
}

function fencedCode(lines: string[], at: number): Taken {
  const opening = FENCE.exec(lines[at] ?? "");
  const mark = opening?.[1] ?? "```";
  const body: string[] = [];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = (lines[next] ?? "").trim();
    if (line.startsWith(mark) && line.replaceAll(mark.charAt(0), "") === "") break;
    body.push(lines[next] ?? "");
  }
  return [{ kind: "code", text: body.join("\n"), language: opening?.[2] ?? "" }, next + 1];
}

function quote(lines: string[], at: number, depth: number): Taken {
  const inner: string[] = [];
  let next = at;
  for (; next < lines.length && QUOTE.test(lines[next] ?? ""); next += 1) {
    inner.push((lines[next] ?? "").replace(QUOTE, ""));
  }
  return [{ kind: "quote", children: blocks(inner, depth + 1) }, next];
}

function list(lines: string[], at: number, depth: number): Taken {
  const [, indent = "", mark = "-"] = ITEM.exec(lines[at] ?? "") ?? [];
  const ordered = /\d/.test(mark);
  const items: string[][] = [];
  let next = at;
  for (; next < lines.length; next += 1) {
    const line = lines[next] ?? "";
    const item = ITEM.exec(line);
    const isSibling = item !== null && (item[1] ?? "").length < indent.length + 2 && !RULE.test(line);
    if (isSibling && /\d/.test(item[2] ?? "") !== ordered) break;
    if (isSibling) items.push([item[4] ?? ""]);
    else if (/^( {2,}|\t)/.test(line)) items.at(-1)?.push(line.replace(/^( {1,4}|\t)/, ""));
    else if (line.trim() === "" && /^( {2,}|\t)\S/.test(lines[next + 1] ?? "")) items.at(-1)?.push("");
    else break;
  }
  const start = ordered ? Number.parseInt(mark, 10) : 1;
  return [{ kind: "list", ordered, start, items: items.map((item) => blocks(item, depth + 1)) }, next];
}

function table(lines: string[], at: number): Taken {
  const rows: string[][] = [];
  let next = at;
  for (; next < lines.length && (lines[next] ?? "").includes("|"); next += 1) {
    if (next !== at + 1) rows.push(cells(lines[next] ?? ""));
  }
  const [head = [], ...rest] = rows;
  const row = (texts: string[]) => head.map((_, column) => inline(texts[column] ?? ""));
  return [{ kind: "table", head: row(head), rows: rest.map(row) }, next];
}

function cells(line: string): string[] {
  return line
    .trim()
    .replace(/^\||\|$/g, "")
    .split("|")
    .map((cell) => cell.trim());
}

function paragraph(lines: string[], at: number, depth: number): Taken {
  const body: string[] = [lines[at] ?? ""];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next] ?? "";
    const isOther = line.trim() === "" || FENCE.test(line) || HEADING.test(line) || RULE.test(line);
    if (isOther || (depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line)))) break;
    body.push(line);
  }
  return [{ kind: "paragraph", children: inline(body.map((line) => line.trim()).join("\n")) }, next];
}

const CODE = /^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/;
const LINK = /^(!?)\[((?:[^[\]\\]|\\.|\[[^[\]]*\]){0,1000})\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/;
const CITATION = /^\[(\d{1,3})\](?![([])/;
const BARE = /^https?:\/\/[^\s<>"'`\])}]+[^\s<>"'`\])}.,;:!?]/;
const STRONG = /^(\*\*|__)(?=\S)([\s\S]*?\S)\1/;
const EM = /^([*_])(?=[^\s*_])((?:[^*_]|\*\*[^*]+\*\*)*?[^\s*_])\1/;
const ESCAPE = /^\\([!-/:-@[-`{-~])/;

/** The inline parts of one paragraph. */
export function inline(text: string, depth = 0): Inline[] {
  const found: Inline[] = [];
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain !== "") found.push({ kind: "text", text: plain });
    plain = "";
  };
  while (at < text.length) {
    const special = depth < DEEPEST && "`[!*_\\h".includes(text.charAt(at)) ? inlineAt(text, at, depth) : null;
    if (special === null) {
      plain += text.charAt(at);
      at += 1;
    } else if (typeof special[0] === "string") {
      plain += special[0];
      at += special[1];
    } else {
      flush();
      found.push(special[0]);
      at += special[1];
    }
  }
  flush();
  return found;
}

function inlineAt(text: string, at: number, depth: number): [Inline | string, number] | null {
  const rest = text.slice(at, at + 4000);
  const before = text.charAt(at - 1);
  switch (text.charAt(at)) {
    case "\\":
      return taken(ESCAPE.exec(rest), (match) => match[1] ?? "");
    case "`":
      return taken(CODE.exec(rest), (match) => ({ kind: "code", text: (match[2] ?? "").trim() }));
    case "!":
    case "[":
      return (
        taken(CITATION.exec(rest), (match) => ({ kind: "citation", number: Number(match[1]) })) ??
        taken(LINK.exec(rest), (match) => link(match, depth))
      );
    case "h":
      if (/\w/.test(before)) return null;
      return taken(BARE.exec(rest), (match) => ({
        kind: "link",
        href: match[0],
        children: [{ kind: "text", text: match[0] }],
      }));
    default:
      if (text.charAt(at) === "_" && /\w/.test(before)) return null; // snake_case
      return (
        taken(STRONG.exec(rest), (match) => ({ kind: "strong", children: inline(match[2] ?? "", depth + 1) })) ??
        taken(EM.exec(rest), (match) => ({ kind: "em", children: inline(match[2] ?? "", depth + 1) }))
      );
  }
}

function taken(
  match: RegExpExecArray | null,
  make: (match: RegExpExecArray) => Inline | string,
): [Inline | string, number] | null {
  return match === null ? null : [make(match), match[0].length];
}

function link(match: RegExpExecArray, depth: number): Inline | string {
  const label = match[2] ?? "";
  // An image would be a request to wherever the model says.
  if (match[1] === "!") return label === "" ? "[image]" : `[image: ${label}]`;
  const href = safeAddress(match[3] ?? "");
  return href === null ? match[0] : { kind: "link", href, children: inline(label, depth + 1) };
}

/** The address if it is one that may be followed: http, https or mailto; else null. */
export function safeAddress(address: string): string | null {
  if (!URL.canParse(address)) return null;
  const { protocol } = new URL(address);
  return ["http:", "https:", "mailto:"].includes(protocol) ? address : null;
}
