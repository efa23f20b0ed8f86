import { expect, it } from "vitest";
import { totals } from "../src/lib/money";

const of = (currency: string, ...amounts: string[]) => amounts.map((amount) => ({ amount, currency }));

it("sums amounts exactly, each currency for itself", () => {
  expect(totals([...of("EUR", "0.1", "0.2"), ...of("USD", "9007199254740993", "0.000000001")])).toEqual([
    ["EUR", "0.3"],
    ["USD", "9007199254740993.000000001"],
  ]);
  expect(totals(of("EUR", "1.5", "0.5"))).toEqual([["EUR", "2"]]);
  expect(totals(of("EUR", "0"))).toEqual([["EUR", "0"]]);
  expect(totals([])).toEqual([]);
});
