// @vitest-environment happy-dom
import { render } from "preact";
import { beforeEach, expect, it, vi } from "vitest";
import { setQuery } from "../src/lib/router";
import { SpendPage } from "../src/pages/spend";

const of = (name: string | null, amount: string, calls: number) => ({
  name,
  calls,
  input_tokens: 1000 * calls,
  cached_input_tokens: 400,
  output_tokens: 5,
  amount,
  currency: "EUR",
});
let asked: URL[] = [];
let answer: unknown[] = [];

beforeEach(() => {
  asked = [];
  vi.stubGlobal("fetch", (to: string) => {
    asked.push(new URL(to, "http://gateway"));
    return Promise.resolve(new Response(JSON.stringify({ spend: answer }), { headers: { "Content-Type": "application/json" } }));
  });
});

async function shown(): Promise<HTMLElement> {
  const root = document.createElement("div");
  render(<SpendPage />, root);
  await vi.waitFor(() => expect(root.querySelector("table, .empty")).not.toBeNull());
  return root;
}

const text = (element: Element | null | undefined) => element?.textContent.replace(/\s+/g, " ").trim();

it("shows each sum, the exact total, and where a run is", async () => {
  answer = [of("r1", "1.5", 2), of(null, "0.000000001", 1)];
  setQuery({ by: "run", days: "7" });
  const root = await shown();
  expect(asked[0]?.pathname).toBe("/v1/spend");
  expect(asked[0]?.searchParams.get("by")).toBe("run");
  const rows = [...root.querySelectorAll("tbody tr")];
  expect(rows.map((row) => text(row.querySelector("th")))).toEqual(["r1", "none"]);
  expect(text(rows[0])).toContain("2,000");
  expect(text(rows[0])).toContain("1.5 EUR");
  expect(root.querySelector("tbody a")?.getAttribute("href")).toBe("/runs/r1");
  expect(text(root.querySelector("tfoot"))).toBe("In all1.500000001 EUR");
});

it("says why nothing is there", async () => {
  answer = [];
  expect(text(await shown())).toContain("FLOTILLA_LLM_PRICES");
});
