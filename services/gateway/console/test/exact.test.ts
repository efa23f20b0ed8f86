import { describe, expect, it } from "vitest";
import { exact, exactObject, hasInexactNumber } from "../src/lib/exact";

describe("what people decide on", () => {
  it.each([
    ["a\u202eb", "a\\u202eb"],
    ["acct\u009b2J-1", "acct\\u009b2J-1"],
    ["a\u200bb\u00adc\ufeff", "a\\u200bb\\u00adc\\ufeff"],
    ["\u{e0041}", "\\udb40\\udc41"],
    ["a\u007f\u0000\r\nb", "a\\u007f\\u0000\\u000d\nb"],
    ["\ud800", "\\ud800"],
    ["a\u3164b\u00a0c", "a\\u3164b\\u00a0c"],
    ["Grüße, 日本語 😀", "Grüße, 日本語 😀"],
  ])("hides nothing: %j", (text, shown) => {
    expect(exact(text)).toBe(shown);
  });

  it("hides nothing in names and members either", () => {
    expect(exactObject({ "a\u202e": ["b\u200b", 3, null, { c: "\u2066" }] })).toEqual({ "a\\u202e": ["b\\u200b", 3, null, { c: "\\u2066" }] });
  });

  it.each([
    ['{"n":12345678901234567}', true],
    ['{"n":[1,-9007199254740993]}', true],
    ['{"n":1e+22}', false],
    ['{"n":9007199254740991,"m":-0.5,"t":"12345678901234567","u":"\\"12345678901234567"}', false],
    ['{"n":0.1}', false],
    ["{}", false],
  ])("knows numbers that a double rounds: %s", (json, isInexact) => {
    expect(hasInexactNumber(json)).toBe(isInexact);
  });
});
