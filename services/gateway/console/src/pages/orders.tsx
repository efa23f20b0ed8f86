import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Order, OrderStep } from "../api/types";
import { mayOperate } from "../lib/account";
import { useActing, usePages, useTitle } from "../lib/hooks";
import { currentQuery, setQuery } from "../lib/router";
import { carryOut } from "../lib/saying";
import { Confirm } from "../ui/dialog";
import { Async, Badge, Button, Empty, Id, More, Page, Problem, Status, toneOf, When } from "../ui/parts";

const STATUSES = ["pending", "approved", "rejected", "compensation_failed"];
const POLL_MS = 3000;

export function OrdersPage() {
  useTitle("Orders");
  const status = currentQuery.value.get("status") ?? "";
  const loaded = usePages("orders", (cursor) => api.listOrders(status, cursor), [status], POLL_MS);
  return (
    <Page title="Orders" lead="Each is carried out whole, or undone; what could not be undone is parked for you.">
      <div class="filters">
        <label>
          Status
          <select value={status} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
            <option value="">any</option>
            {STATUSES.map((one) => (
              <option key={one} value={one}>
                {one === "compensation_failed" ? "compensation parked" : one}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Async of={loaded} lines={6}>
        {({ orders, next_cursor }) => (
          <>
            {orders.length === 0 ? (
              <Empty icon="orders" title={status === "" ? "No order yet" : "No order is in this state"} />
            ) : (
              <OrderTable orders={orders} reload={loaded.reload} />
            )}
            <More cursor={next_cursor} onMore={loaded.more} />
          </>
        )}
      </Async>
    </Page>
  );
}

export function OrderTable({ orders, reload }: { orders: Order[]; reload: () => Promise<void> }) {
  return (
    <table class="list" aria-label="Orders">
      <thead>
        <tr>
          <th scope="col">Order</th>
          <th scope="col">Status</th>
          <th scope="col" class="num">
            Amount
          </th>
          <th scope="col">Buyer</th>
          <th scope="col">Steps</th>
          <th scope="col">Placed</th>
        </tr>
      </thead>
      <tbody>
        {orders.map((order) => (
          <tr key={order.order_id}>
            <th scope="row" data-label="Order">
              <div>
                <Id value={order.order_id} href={`/sessions/${encodeURIComponent(order.session_id)}`} />
                {order.reason !== null && <div class="faint break">{order.reason}</div>}
              </div>
            </th>
            <td data-label="Status">
              <Status value={order.status} />
            </td>
            <td data-label="Amount" class="num">
              {order.amount} {order.currency}
            </td>
            <td data-label="Buyer">{order.user_id}</td>
            <td data-label="Steps">
              <Steps order={order} reload={reload} />
            </td>
            <td data-label="Placed">
              <When at={order.created_at} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Steps({ order, reload }: { order: Order; reload: () => Promise<void> }) {
  return (
    <ul class="order-steps">
      {order.steps.map((step) => (
        <li key={step.number}>
          <span>{step.name.replaceAll("_", " ")}</span> <Badge tone={toneOf(step.status)}>{step.status}</Badge>
          {step.status === "parked" && <Parked order={order} step={step} reload={reload} />}
        </li>
      ))}
    </ul>
  );
}

type Asked = "skip" | "resolve";

const QUESTIONS: Record<Asked, { verb: string; text: string }> = {
  skip: { verb: "Skip it", text: "It is given up: what it should have undone stays done." },
  resolve: { verb: "Mark as done", text: "You record that a person did it by hand." },
};

/** A compensation that keeps failing, and the three ways out. */
function Parked({ order, step, reload }: { order: Order; step: OrderStep; reload: () => Promise<void> }) {
  const [asked, setAsked] = useState<Asked | null>(null);
  const acting = useActing();
  const name = step.compensation?.replaceAll("_", " ") ?? step.name;
  const operate = (verb: "retry" | Asked, reason?: string) =>
    carryOut(() => api.operate(order.order_id, step.number, verb, reason), `${name}: ${verb} is recorded.`, reload);
  return (
    <div>
      {step.error !== null && <p class="field-error break">{step.error}</p>}
      {mayOperate.value && (
        <div class="row-actions">
          <Button isSmall isBusy={acting.isBusy} label={`Retry: ${name}`} onClick={() => void acting.run(() => operate("retry"))}>
            Retry
          </Button>
          <Button isSmall label={`Skip: ${name}`} onClick={() => setAsked("skip")}>
            Skip…
          </Button>
          <Button isSmall label={`Resolve: ${name}`} onClick={() => setAsked("resolve")}>
            Resolve…
          </Button>
        </div>
      )}
      <Problem error={acting.error} />
      {asked !== null && (
        <Confirm
          title={`${asked === "skip" ? "Skip" : "Resolve"}: ${name}`}
          verb={QUESTIONS[asked].verb}
          needsReason
          isDangerous={asked === "skip"}
          onClose={() => setAsked(null)}
          onConfirm={(reason) => operate(asked, reason)}
        >
          <p>{QUESTIONS[asked].text}</p>
        </Confirm>
      )}
    </div>
  );
}
