/** Sums of exact decimal numbers: a double would change the last digits. */

/** The sum per currency, as an exact decimal number, in the order in which they come. */
export function totals(amounts: { amount: string; currency: string }[]): [string, string][] {
  const currencies = [...new Set(amounts.map((one) => one.currency))];
  return currencies.map((currency) => [
    currency,
    sum(amounts.filter((one) => one.currency === currency).map((one) => one.amount)),
  ]);
}

function sum(amounts: string[]): string {
  const places = Math.max(...amounts.map((one) => parts(one).fraction.length));
  const all = amounts.map(parts).reduce((sum, one) => sum + BigInt(one.whole + one.fraction.padEnd(places, "0")), 0n);
  const digits = String(all).padStart(places + 1, "0");
  const whole = digits.slice(0, digits.length - places);
  const fraction = digits.slice(digits.length - places).replace(/0+$/, "");
  return fraction === "" ? whole : `${whole}.${fraction}`;
}

function parts(amount: string): { whole: string; fraction: string } {
  const [whole = "0", fraction = ""] = amount.split(".");
  return { whole, fraction };
}
