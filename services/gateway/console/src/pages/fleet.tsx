import type { ComponentChildren } from "preact";
import * as api from "../api/calls";
import type { Agent, Fleet, FleetHistory, OutboxStatus, StreamFigures } from "../api/types";
import { mayOperate } from "../lib/account";
import { count, duration, number } from "../lib/format";
import { useActing, useLoaded, useTitle } from "../lib/hooks";
import { carryOut } from "../lib/saying";
import { Chart } from "../ui/chart";
import { Async, Badge, Button, Card, Empty, Id, Page, Problem, When } from "../ui/parts";
import { DeadLetters } from "./dead-letters";
import { OrderTable } from "./orders";

const POLL_MS = 5000;
const HISTORY_MS = 15_000;

export function FleetPage() {
  useTitle("Fleet");
  const fleet = useLoaded(api.fleet, [], POLL_MS);
  return (
    <Page title="Fleet" lead="What is running, what waits, and what needs a person.">
      <Async of={fleet} lines={3}>
        {(data) => <Figures fleet={data} />}
      </Async>
      <Charts />
      <Agents streams={fleet.data?.streams ?? []} />
      {mayOperate.value && <DeadLetters />}
      {mayOperate.value && <Outbox />}
      <ParkedOrders />
    </Page>
  );
}

function Figures({ fleet }: { fleet: Fleet }) {
  const { outbox, audit } = fleet;
  const dead = fleet.streams.reduce((sum, one) => sum + one.dead_letters, 0);
  return (
    <dl class="grid">
      <Figure title="Runs going on" value={fleet.runs_active} />
      <Figure title="Approvals pending" value={fleet.approvals_pending} />
      <Figure title="Outbox backlog" value={outbox.backlog_rows} isBad={outbox.parked > 0}>
        {outbox.backlog_rows > 0 && `oldest ${duration(outbox.oldest_unpublished_s * 1000)}`}
        {outbox.parked > 0 && `, ${count(outbox.parked, "session")} parked`}
      </Figure>
      <Figure title="Audit lag" value={audit.lag_events} isBad={audit.parked_sessions > 0}>
        {audit.checkpoint_age_s !== null && `last checkpoint ${duration(audit.checkpoint_age_s * 1000)} ago`}
        {audit.parked_sessions > 0 && `, ${count(audit.parked_sessions, "session")} parked`}
      </Figure>
      <Figure title="Dead letters" value={dead} isBad={dead > 0} />
      <Figure title="Orders parked" value={fleet.parked_orders} isBad={fleet.parked_orders > 0} />
    </dl>
  );
}

interface FigureProps {
  title: string;
  value: number | null;
  isBad?: boolean;
  children?: ComponentChildren;
}

function Figure({ title, value, isBad = false, children }: FigureProps) {
  return (
    <div class="figure">
      <dt>{title}</dt>
      <dd class={isBad ? "figure-value bad" : "figure-value"}>{value === null ? "—" : value > 10_000 ? "10,000+" : number(value)}</dd>
      <dd class="faint">{children}</dd>
    </div>
  );
}

const CHARTS: { series: keyof FleetHistory["series"]; title: string; isSum?: boolean }[] = [
  { series: "runs_finished", title: "Runs finished in the last hour", isSum: true },
  { series: "stream_lag", title: "Stream lag" },
  { series: "stream_pending", title: "Pending entries" },
  { series: "outbox_backlog", title: "Outbox backlog" },
  { series: "audit_lag", title: "Audit lag" },
  { series: "approvals_pending", title: "Approvals pending" },
];

function Charts() {
  const history = useLoaded(api.fleetHistory, [], HISTORY_MS);
  return (
    <Async of={history} lines={3}>
      {({ times, series }) => (
        <div class="grid charts">
          {CHARTS.map(({ series: name, title, isSum = false }) => (
            <Chart key={name} title={title} isSum={isSum} times={times} values={series[name]} />
          ))}
        </div>
      )}
    </Async>
  );
}

function Agents({ streams }: { streams: StreamFigures[] }) {
  const loaded = useLoaded(api.listAgents, [], POLL_MS);
  return (
    <Card title="Agents">
      <Async of={loaded}>
        {({ agents }) =>
          agents.length === 0 ? (
            <Empty icon="fleet" title="No agent has registered itself" />
          ) : (
            <table class="list" aria-label="Agents">
              <thead>
                <tr>
                  <th scope="col">Agent</th>
                  <th scope="col" class="num">
                    Instances
                  </th>
                  <th scope="col" class="num">
                    In flight
                  </th>
                  <th scope="col" class="num">
                    Lag
                  </th>
                  <th scope="col" class="num">
                    Pending
                  </th>
                  <th scope="col" class="num">
                    Dead letters
                  </th>
                  <th scope="col">Last seen</th>
                </tr>
              </thead>
              <tbody>
                {agents.map((agent) => (
                  <AgentRow key={agent.name} agent={agent} figures={streams.find((one) => one.stream === agent.stream)} />
                ))}
              </tbody>
            </table>
          )
        }
      </Async>
    </Card>
  );
}

function AgentRow({ agent, figures }: { agent: Agent; figures: StreamFigures | undefined }) {
  const shown = (value: number | null | undefined) => (value === null || value === undefined ? "—" : number(value));
  return (
    <tr>
      <th scope="row" data-label="Agent">
        <div>
          <strong>{agent.name}</strong> <span class="faint">version {agent.version}</span>
          <details>
            <summary>{agent.stream}</summary>
            <ul>
              {agent.members.map((one) => (
                <li key={one.instance} class="faint break">
                  {one.instance}: {one.in_flight} of {one.concurrency}, since <When at={one.started_at} />
                </li>
              ))}
            </ul>
          </details>
        </div>
      </th>
      <td data-label="Instances" class="num">
        {agent.instances === 0 ? <Badge tone="bad">none</Badge> : number(agent.instances)}
      </td>
      <td data-label="In flight" class="num">
        {number(agent.in_flight)}
      </td>
      <td data-label="Lag" class="num">
        {shown(figures?.lag)}
      </td>
      <td data-label="Pending" class="num">
        <span>
          {shown(figures?.pending)}
          {figures?.oldest_pending_s !== null && figures?.oldest_pending_s !== undefined && (
            <span class="faint"> oldest {duration(figures.oldest_pending_s * 1000)}</span>
          )}
        </span>
      </td>
      <td data-label="Dead letters" class="num">
        {shown(figures?.dead_letters)}
      </td>
      <td data-label="Last seen">
        <When at={agent.last_seen} />
      </td>
    </tr>
  );
}

function Outbox() {
  const loaded = useLoaded(api.outbox, [], POLL_MS);
  return (
    <Card title="Outbox">
      <Async of={loaded} lines={2}>
        {(data) =>
          data.parked.length === 0 ? (
            <p class="faint">No session is parked: every event is on its way to Kafka.</p>
          ) : (
            <table class="list" aria-label="Parked sessions">
              <thead>
                <tr>
                  <th scope="col">Session</th>
                  <th scope="col">Refused event</th>
                  <th scope="col" class="num">
                    Waiting
                  </th>
                  <th scope="col">Parked</th>
                  <th scope="col">
                    <span class="hidden">What to do</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {data.parked.map((one) => (
                  <ParkedSession key={one.session_id} parked={one} reload={loaded.reload} />
                ))}
              </tbody>
            </table>
          )
        }
      </Async>
    </Card>
  );
}

function ParkedSession({ parked, reload }: { parked: OutboxStatus["parked"][number]; reload: () => Promise<void> }) {
  const acting = useActing();
  const redrive = () =>
    acting.run(() => carryOut(() => api.redriveOutbox(parked.session_id), "The session goes on.", reload));
  return (
    <tr>
      <th scope="row" data-label="Session">
        <Id value={parked.session_id} href={`/sessions/${encodeURIComponent(parked.session_id)}`} />
      </th>
      <td data-label="Refused event">
        <span class="break">
          {number(parked.seq)}: {parked.error}
        </span>
      </td>
      <td data-label="Waiting" class="num">
        {number(parked.waiting)}
      </td>
      <td data-label="Parked">
        <When at={parked.parked_at} />
      </td>
      <td>
        <Button isSmall isBusy={acting.isBusy} onClick={() => void redrive()}>
          Redrive
        </Button>
        <Problem error={acting.error} />
      </td>
    </tr>
  );
}

function ParkedOrders() {
  const loaded = useLoaded(() => api.listOrders("compensation_failed"), [], POLL_MS);
  return (
    <Card title="Parked compensations" aside={<a href="/orders">All orders</a>}>
      <Async of={loaded} lines={2}>
        {({ orders }) =>
          orders.length === 0 ? (
            <p class="faint">Every order is carried out or undone.</p>
          ) : (
            <OrderTable orders={orders} reload={loaded.reload} />
          )
        }
      </Async>
    </Card>
  );
}
