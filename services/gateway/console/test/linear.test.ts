import { cpuUsage } from "node:process";
import { expect, test } from "vitest";
import { parse } from "../src/lib/markdown";
import { oneLine } from "../src/lib/text";

const UNITS = [
  "`", "``a`", "*", "**", "*a ", "**a ", " **", "_", "_a", "*a**b**", "[", "[a", "[a](", "[a](x ", "![", "\\", "[1", "](",
  "http://", "h", "#", " ", "\t", "-", "- ", "~", "|", "|a", "> ", "1. ", "a", "<", "\u200b", "é", "(", "a*", "*_", "`*",
];
const BEGINNINGS = ["", "~~~", "# ", "- ", "[a](", "a|b\n-", "**", "http://"];
const ENDS = ["", "`", "x\n"];

/** Processor time in milliseconds. */
function elapsed(text: string): number {
  const started = cpuUsage();
  parse(text);
  const { user, system } = cpuUsage(started);
  return (user + system) / 1000;
}

/** The least of three, since other work takes the processor, too. */
function work(make: (size: number) => string, size: number): number {
  const text = make(size);
  return Math.min(elapsed(text), elapsed(text), elapsed(text));
}

function growsFaster(make: (size: number) => string): boolean {
  const small = work(make, 10_000);
  // What is too fast to be measured is fast enough.
  return small > 5 && work(make, 20_000) > 2.5 * small && work(make, 40_000) > 6.25 * small;
}

test.each(UNITS)("the worst of %j takes time in proportion to its length", (unit) => {
  for (const beginning of BEGINNINGS)
    for (const end of ENDS) {
      const make = (size: number) => beginning + unit.repeat(size / unit.length) + end;
      expect(elapsed(make(10_000)), `${beginning} ${end}`).toBeLessThan(500);
      expect(growsFaster(make) && growsFaster(make), `${beginning} ${end}`).toBe(false);
    }
});

test("backticks in runs of every length take time in proportion to the text", () => {
  const text = Array.from({ length: 500 }, (_, length) => "`".repeat(length)).join(" ");
  expect(elapsed(text)).toBeLessThan(500);
});

test("a long line is shown by its beginning", () => {
  expect(oneLine(`a${" ".repeat(1_000_000)}b`)).toBe("a");
});
