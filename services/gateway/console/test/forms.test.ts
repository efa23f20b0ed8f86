import { describe, expect, it } from "vitest";
import { differences, isEqual } from "../src/lib/json-diff";
import { draftOf, fieldsOf, inputFields, read } from "../src/lib/schema-form";

const SCHEMA = {
  type: "object",
  required: ["method", "url"],
  properties: {
    method: { enum: ["GET", "POST"], type: "string", title: "Method" },
    url: { type: "string", title: "Url" },
    tries: { type: "integer", default: 1 },
    json: { default: null },
    limits: { $ref: "#/$defs/Limits" },
  },
  $defs: { Limits: { type: "object", title: "Limits", description: "How far it may go." } },
};
const ARGS = { method: "POST", url: "https://billing.example/refunds", json: { amount: 12, lines: [1, 2] } };
const edited = (change: Record<string, string>, editable = ["json", "tries", "method"]) => {
  const fields = fieldsOf(SCHEMA, ARGS, editable);
  return read(fields, { ...draftOf(fields, ARGS), ...change }, ARGS);
};

describe("a form from a schema", () => {
  it("has a field of the right kind for each argument", () => {
    const kinds = fieldsOf(SCHEMA, ARGS, []).map((field) => [field.name, field.kind]);
    expect(kinds).toEqual([
      ["method", "choice"],
      ["url", "text"],
      ["tries", "integer"],
      ["json", "json"],
      ["limits", "json"],
    ]);
  });

  it("follows references for titles and help", () => {
    const limits = fieldsOf(SCHEMA, ARGS, []).at(-1);
    expect(limits?.label).toBe("Limits");
    expect(limits?.help).toBe("How far it may go.");
  });

  it("guesses from the values where there is no schema", () => {
    const fields = fieldsOf(null, { text: "a", n: 1.5, is_on: true, deep: { a: 1 } }, ["text"]);
    expect(fields.map((field) => field.kind)).toEqual(["text", "number", "boolean", "json"]);
    expect(fields.map((field) => field.isEditable)).toEqual([true, false, false, false]);
  });

  it("gives the same arguments back when nothing is changed", () => {
    expect(edited({})).toEqual({ args: ARGS, errors: {} });
  });

  it("reads what was typed as the value it stands for", () => {
    expect(edited({ tries: "3", method: "GET", json: '{"amount": 13}' }).args).toEqual({
      method: "GET",
      url: ARGS.url,
      tries: 3,
      json: { amount: 13 },
    });
  });

  it("says what is wrong with each field", () => {
    const { errors } = edited({ tries: "many", method: "", json: "{" });
    expect(Object.keys(errors)).toEqual(["method", "tries", "json"]);
    expect(errors.method).toBe("This is required.");
    expect(errors.json).toMatch(/not JSON/);
  });

  it("leaves what may not be edited as it was, whatever the field holds", () => {
    expect(edited({ url: "https://evil.example" }).args.url).toBe(ARGS.url);
  });

  it("leaves an argument out that was emptied", () => {
    expect(edited({ json: " " }).args).toEqual({ method: "POST", url: ARGS.url });
  });

  it("keeps an argument that is called __proto__", () => {
    const args = JSON.parse('{"__proto__": {"a": 1}}') as Record<string, never>;
    const fields = fieldsOf(null, args, ["__proto__"]);
    const found = read(fields, draftOf(fields, args), args);
    expect(JSON.stringify(found.args)).toBe('{"__proto__":{"a":1}}');
    expect(differences(args, found.args)).toEqual([]);
  });
});

describe("differences", () => {
  it("names each value that changed, added and taken out ones too", () => {
    expect(differences({ a: 1, b: { c: [1, 2] }, d: 1 }, { a: 1, b: { c: [1, 3, 4] }, e: null })).toEqual([
      { path: "b/c/1", before: 2, after: 3 },
      { path: "b/c/2", before: undefined, after: 4 },
      { path: "d", before: 1, after: undefined },
      { path: "e", before: undefined, after: null },
    ]);
  });

  it("sees a change of type", () => {
    expect(differences({ a: "1" }, { a: 1 })).toEqual([{ path: "a", before: "1", after: 1 }]);
  });

  it("does not count the order of names", () => {
    expect(isEqual({ a: 1, b: 2 }, { b: 2, a: 1 })).toBe(true);
    expect(isEqual({ a: 1 }, { b: 1 })).toBe(false);
    expect(isEqual([1, 2], [2, 1])).toBe(false);
  });
});

describe("a form for what a workflow takes", () => {
  const BRIEF = {
    $ref: "#/$defs/BriefRequest",
    $defs: {
      BriefRequest: {
        type: "object",
        required: ["topic"],
        properties: {
          topic: { type: "string" },
          max_rounds: { type: "integer", default: 3 },
          tone: { enum: ["plain", "warm"], default: "plain" },
          note: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
          source: { $ref: "#/$defs/Source" },
        },
      },
      Source: { type: "object", description: "Where it comes from." },
    },
  };
  const started = (typed: Record<string, string>) => {
    const { fields, defaults } = inputFields(BRIEF);
    return read(fields, { ...draftOf(fields, defaults), ...typed }, {});
  };

  it("has an open field of the right kind for each member of the root", () => {
    const { fields } = inputFields(BRIEF);
    expect(fields.map((field) => [field.name, field.kind, field.isEditable])).toEqual([
      ["topic", "text", true],
      ["max_rounds", "integer", true],
      ["tone", "choice", true],
      ["note", "text", true],
      ["source", "json", true],
    ]);
    expect(fields.at(-1)?.help).toBe("Where it comes from.");
  });

  it("begins with the defaults and leaves out what nobody filled in", () => {
    expect(started({ topic: "harbours" })).toEqual({
      args: { topic: "harbours", max_rounds: 3, tone: "plain" },
      errors: {},
    });
    expect(started({ topic: "harbours", max_rounds: "", note: "short" }).args).toEqual({
      topic: "harbours",
      tone: "plain",
      note: "short",
    });
  });

  it("says what is missing and what is wrong", () => {
    expect(started({ max_rounds: "many", source: "{" }).errors).toMatchObject({
      max_rounds: "Give a whole number.",
    });
    expect(Object.keys(started({ max_rounds: "many", source: "{" }).errors).sort()).toEqual(["max_rounds", "source"]);
  });
});
