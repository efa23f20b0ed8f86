import { gzipSync } from "node:zlib";
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { checkExport, compressed, eventsIn, inParts } from "../src/lib/archive-file";

const sha256 = (...parts: (string | Buffer)[]) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** An export as the gateway writes it, and the hash of its newest event. */
function exported(session: string, bodies: string[]): { text: string; hash: string } {
  let chained = sha256(["default", session, "", "0"].join("\0"));
  const segments = [{ session, parent: null, after_seq: 0, upto_seq: bodies.length, signed_seq: bodies.length }];
  const lines: object[] = [{ kind: "header", format: "flotilla-audit-export/4", tenant: "default", session, segments }];
  bodies.forEach((body, at) => {
    chained = sha256(chained, Buffer.from(body));
    lines.push({ kind: "event", session, seq: at + 1, hash: chained.toString("hex"), body });
  });
  lines.push({ kind: "end", events: bodies.length, witnesses: 0, anchors: 0, inclusions: 0 });
  return { text: lines.map((line) => `${JSON.stringify(line)}\n`).join(""), hash: chained.toString("hex") };
}

/** Compressed as the command line does it: no name, no time. */
function member(text: string): Uint8Array<ArrayBuffer> {
  const bytes = Uint8Array.from(gzipSync(text));
  bytes.set([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
  return bytes;
}

const ada = exported("ada", ['{"a":"ä"}', '{"b":"\\n"}', "{}"]);
const bob = exported("bob", ['{"secret":1}']);

describe("archives", () => {
  it("are read as the command line and as this page write them", async () => {
    for (const file of [new Blob([member(ada.text), member(bob.text)]), await compressed([ada.text, bob.text])]) {
      expect(await eventsIn(file, "ada")).toEqual([
        { seq: 1, body: '{"a":"ä"}' },
        { seq: 2, body: '{"b":"\\n"}' },
        { seq: 3, body: "{}" },
      ]);
      expect(await eventsIn(file, "bob")).toEqual([{ seq: 1, body: '{"secret":1}' }]);
      expect(await eventsIn(file, "eve")).toEqual([]);
    }
  });

  it("that are none, or damaged, say so", async () => {
    const damaged = member(ada.text).slice(0, -9);
    for (const file of [new Blob(["no archive"]), new Blob([damaged]), await compressed(["no lines\n"])]) {
      await expect(eventsIn(file, "ada")).rejects.toThrow(/archive/);
    }
  });

  it("are made of exports that are whole and lead to the committed hash", async () => {
    await checkExport(ada.text, "ada", 3, ada.hash);
    const lines = ada.text.split("\n");
    for (const [text, why] of [
      [ada.text.replace("ä", "a"), "not what was committed"],
      [lines.slice(0, -2).join("\n"), "cut off"],
      [lines.filter((_, at) => at !== 2).join("\n"), "cut off"],
      [lines.filter((_, at) => at !== 2).join("\n").replace('"events":3', '"events":2'), "Event 2 of session ada"],
      ["", "cut off"],
      [bob.text, "cut off"],
    ] as const) {
      await expect(checkExport(text, "ada", 3, ada.hash)).rejects.toThrow(why);
    }
    await expect(checkExport(ada.text, "ada", 4, ada.hash)).rejects.toThrow("it went on");
  });

  it("go back in parts that a request may hold", () => {
    const events = Array.from({ length: 7 }, (_, at) => ({ seq: at + 1, body: "x".repeat(at === 3 ? 90 : 10) }));
    expect(inParts(events, 3, 160).map((part) => part.map((event) => event.seq))).toEqual([[1, 2, 3], [4, 5], [6, 7]]);
    expect(inParts([])).toEqual([]);
  });
});
