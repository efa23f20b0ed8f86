/**
 * A small subset of Markdown as a tree: paragraphs, headings, lists, quotes, code, tables, rules; emphasis, code, links.
 *
 * Model output is untrusted. HTML stays text, images become their alternative text, and links keep only http, https
 * and mailto addresses. The tree holds strings only; `ui/markdown.tsx` makes nodes of it, never markup.
 */

import { inline, type Inline } from "./markdown-inline";

export { hiddenDestination, inline, safeAddress, type Inline } from "./markdown-inline";

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
// Each matches a beginning and never looks back over what it took: linear, like all in here.
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6})(?=\s)/;
const RULE = /^ {0,3}([-*_])/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const TABLE_CELL = /^:?-+:?$/;

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
  const fence = fenceOf(line);
  if (fence !== null) return fencedCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [headingOf(line.slice(heading[0].length), heading[1] ?? "#"), at + 1];
  if (isRule(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (ITEM.test(line)) return list(lines, at, depth);
  }
  if (line.includes("|") && isTableRule(lines[at + 1] ?? "")) return table(lines, at);
  return paragraph(lines, at, depth);
}

interface Fence {
  mark: string;
  language: string;
}

function fenceOf(line: string): Fence | null {
  const opening = FENCE.exec(line);
  if (opening === null) return null;
  const after = line.slice(opening[0].length);
  return after.includes("`") ? null : { mark: opening[1] ?? "```", language: /^[\w+-]*/.exec(after.trim())?.[0] ?? "" };
}

function headingOf(text: string, marks: string): Block {
  const content = text.trim();
  let end = content.length;
  while (content.charAt(end - 1) === "#") end -= 1;
  return { kind: "heading", level: marks.length, children: inline(content.slice(0, end).trim()) };
}

function isRule(line: string): boolean {
  const mark = RULE.exec(line)?.[1];
  if (mark === undefined) return false;
  const bare = line.replace(/\s/g, "");
  return bare.length >= 3 && bare === mark.repeat(bare.length);
}

function isTableRule(line: string): boolean {
  return line.includes("-") && cells(line).every((cell) => TABLE_CELL.test(cell));
}

function fencedCode(lines: string[], at: number, { mark, language }: Fence): Taken {
  const body: string[] = [];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = (lines[next] ?? "").trim();
    if (line.startsWith(mark) && line.replaceAll(mark.charAt(0), "") === "") break;
    body.push(lines[next] ?? "");
  }
  return [{ kind: "code", text: body.join("\n"), language }, next + 1];
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
    const isSibling = item !== null && (item[1] ?? "").length < indent.length + 2 && !isRule(line);
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
    const isOther = line.trim() === "" || fenceOf(line) !== null || HEADING.test(line) || isRule(line);
    if (isOther || (depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line)))) break;
    body.push(line);
  }
  return [{ kind: "paragraph", children: inline(body.map((line) => line.trim()).join("\n")) }, next];
}
