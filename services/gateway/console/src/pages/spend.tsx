/** What model calls cost, summed up by what the reader wants to know. */

import * as api from "../api/calls";
import type { Spent } from "../api/types";
import { exact } from "../lib/exact";
import { number } from "../lib/format";
import { useLoaded, useTitle } from "../lib/hooks";
import { totals } from "../lib/money";
import { currentQuery, setQuery } from "../lib/router";
import { Async, Empty, Page } from "../ui/parts";

const BY = ["day", "model", "agent", "person", "service", "run"] as const;
const DAYS = [1, 7, 30, 90, 365];
const POLL_MS = 10_000;
const DAY_MS = 86_400_000;

type By = (typeof BY)[number];

export function SpendPage() {
  useTitle("Spend");
  const by = BY.find((one) => one === currentQuery.value.get("by")) ?? "day";
  const days = DAYS.find((one) => String(one) === currentQuery.value.get("days")) ?? 30;
  const load = () => api.spend(by, new Date(Date.now() - days * DAY_MS).toISOString());
  const loaded = useLoaded(load, [by, days], POLL_MS);
  return (
    <Page title="Spend" lead="What model calls cost, at the agents' price tables, in the sessions that you may see.">
      <div class="filters" role="search">
        <label>
          By
          <select value={by} onChange={(event) => setQuery({ by: event.currentTarget.value })}>
            {BY.map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
        <label>
          In the last
          <select value={String(days)} onChange={(event) => setQuery({ days: event.currentTarget.value })}>
            {DAYS.map((one) => (
              <option key={one} value={String(one)}>
                {one === 1 ? "24 hours" : `${String(one)} days`}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Async of={loaded} lines={6}>
        {({ spend }) =>
          spend.length === 0 ? (
            <Empty icon="money" title="Nothing was spent">
              Calls are counted where the agents know prices: FLOTILLA_LLM_PRICES.
            </Empty>
          ) : (
            <Table by={by} spend={spend} />
          )
        }
      </Async>
    </Page>
  );
}

function Table({ by, spend }: { by: By; spend: Spent[] }) {
  return (
    <table class="list" aria-label="Spend">
      <thead>
        <tr>
          <th scope="col">{by.charAt(0).toUpperCase() + by.slice(1)}</th>
          <th scope="col" class="num">
            Calls
          </th>
          <th scope="col" class="num">
            Input tokens
          </th>
          <th scope="col" class="num">
            From a cache
          </th>
          <th scope="col" class="num">
            Output tokens
          </th>
          <th scope="col" class="num">
            Amount
          </th>
        </tr>
      </thead>
      <tbody>
        {spend.map((one) => (
          <tr key={`${one.name ?? ""} ${one.currency}`}>
            <th scope="row" data-label={by}>
              <Name by={by} name={one.name} />
            </th>
            <td data-label="Calls" class="num">
              {number(one.calls)}
            </td>
            <td data-label="Input tokens" class="num">
              {number(one.input_tokens)}
            </td>
            <td data-label="From a cache" class="num">
              {number(one.cached_input_tokens)}
            </td>
            <td data-label="Output tokens" class="num">
              {number(one.output_tokens)}
            </td>
            <td data-label="Amount" class="num">
              {one.amount} {one.currency}
            </td>
          </tr>
        ))}
      </tbody>
      <tfoot>
        {totals(spend).map(([currency, amount]) => (
          <tr key={currency}>
            <th scope="row" colSpan={5}>
              In all
            </th>
            <td data-label="In all" class="num">
              <strong>
                {amount} {currency}
              </strong>
            </td>
          </tr>
        ))}
      </tfoot>
    </table>
  );
}

function Name({ by, name }: { by: By; name: string | null }) {
  if (name === null) return <>none</>;
  const said = <code class="break">{exact(name)}</code>;
  return by === "run" ? <a href={`/runs/${encodeURIComponent(name)}`}>{said}</a> : said;
}
