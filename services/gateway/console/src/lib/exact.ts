/** Text with nothing hidden in it, and numbers that a double can't hold: for what people decide on. */

import type { Json, JsonObject } from "../api/types";
import { isObject } from "./json-diff";

/** Control, format, unassigned and private characters, and separators. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;
/** Spaces of other widths, selectors of variants, and letters that show nothing: first and last code point. */
const BLANK: readonly (readonly [number, number])[] = [
  [0xa0, 0xa0],
  [0x34f, 0x34f],
  [0x115f, 0x1160],
  [0x17b4, 0x17b5],
  [0x2000, 0x200a],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x2800, 0x2800],
  [0x3000, 0x3000],
  [0x3164, 0x3164],
  [0xfe00, 0xfe0e],
  [0xffa0, 0xffa0],
  [0xe0100, 0xe01ef],
];

/** `text` with `\u202e` in place of a character that can't be seen, or that turns the order of letters. */
export function exact(text: string): string {
  let shown = "";
  for (const character of text) shown += isHidden(character) ? escaped(character) : character;
  return shown;
}

/** A value with every text in it, names included, as `exact` shows it. */
export function exactValue(value: Json): Json {
  if (typeof value === "string") return exact(value);
  if (Array.isArray(value)) return value.map(exactValue);
  return isObject(value) ? exactObject(value) : value;
}

/** As `exactValue`, for an object. */
export function exactObject(value: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [exact(name), exactValue(member)]));
}

/** Whether a number of a JSON text is another one once it was read as a double, as browsers do. */
export function hasInexactNumber(json: string): boolean {
  let at = 0;
  while (at < json.length) {
    const character = json.charAt(at);
    if (character === '"') at = afterText(json, at);
    else if (isDigit(character) || character === "-") {
      const from = at;
      while (at < json.length && isOfNumber(json.charAt(at))) at += 1;
      const written = json.slice(from, at);
      if (JSON.stringify(Number(written)) !== written) return true;
    } else at += 1;
  }
  return false;
}

function isHidden(character: string): boolean {
  if (character === "\n") return false;
  const code = character.codePointAt(0) ?? 0;
  return HIDDEN.test(character) || BLANK.some(([first, last]) => code >= first && code <= last);
}

function afterText(json: string, from: number): number {
  let at = from + 1;
  while (at < json.length && json.charAt(at) !== '"') at += json.charAt(at) === "\\" ? 2 : 1;
  return at + 1;
}

function isDigit(character: string): boolean {
  return character >= "0" && character <= "9";
}

function isOfNumber(character: string): boolean {
  return isDigit(character) || "+-.eE".includes(character);
}

function escaped(character: string): string {
  let units = "";
  for (let at = 0; at < character.length; at += 1) units += `\\u${character.charCodeAt(at).toString(16).padStart(4, "0")}`;
  return units;
}
