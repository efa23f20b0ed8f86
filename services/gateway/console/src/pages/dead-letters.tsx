/** Entries of the bus that nobody could handle: look, redrive, discard. */

import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { DeadLetter, Json } from "../api/types";
import { dateTime, number } from "../lib/format";
import { useActing, useLoaded, usePages } from "../lib/hooks";
import { carryOut } from "../lib/saying";
import { Confirm, Dialog } from "../ui/dialog";
import { JsonView } from "../ui/json";
import { Async, Button, Card, Facts, Id, More, Problem, When } from "../ui/parts";

const POLL_MS = 3000;

export function DeadLetters() {
  const [open, setOpen] = useState<string | null>(null);
  const loaded = usePages("dead_letters", api.listDeadLetters, [], POLL_MS);
  return (
    <Card title="Dead letters">
      <Async of={loaded} lines={3}>
        {({ dead_letters, next_cursor }) =>
          dead_letters.length === 0 ? (
            <p class="faint">None: every entry was handled.</p>
          ) : (
            <>
              <table class="list" aria-label="Dead letters">
                <thead>
                  <tr>
                    <th scope="col">Stream</th>
                    <th scope="col">Why</th>
                    <th scope="col" class="num">
                      Deliveries
                    </th>
                    <th scope="col">Given up</th>
                    <th scope="col">
                      <span class="hidden">What to do</span>
                    </th>
                  </tr>
                </thead>
                <tbody>
                  {dead_letters.map((one) => (
                    <Row key={one.dead_letter_id} letter={one} onOpen={setOpen} reload={loaded.reload} />
                  ))}
                </tbody>
              </table>
              <More cursor={next_cursor} onMore={loaded.more} />
            </>
          )
        }
      </Async>
      {open !== null && <Inspect id={open} onClose={() => setOpen(null)} />}
    </Card>
  );
}

interface RowProps {
  letter: DeadLetter;
  onOpen: (id: string) => void;
  reload: () => Promise<void>;
}

function Row({ letter, onOpen, reload }: RowProps) {
  const [isDiscarding, setDiscarding] = useState(false);
  const acting = useActing();
  const name = letter.task_id ?? letter.entry_id;
  const redrive = () =>
    acting.run(() => carryOut(() => api.redriveDeadLetter(letter.dead_letter_id), "The entry is on its stream again.", reload));
  return (
    <tr>
      <th scope="row" data-label="Stream">
        <div>
          <code class="break">{letter.stream}</code>
          <div class="faint break">{name}</div>
        </div>
      </th>
      <td data-label="Why">
        <span>
          {letter.reason.replaceAll("_", " ")}
          <span class="faint clip">{letter.error}</span>
        </span>
      </td>
      <td data-label="Deliveries" class="num">
        {number(letter.attempts)}
      </td>
      <td data-label="Given up">
        <When at={letter.created_at} />
      </td>
      <td>
        <div class="row-actions">
          <Button isSmall label={`Inspect ${name}`} onClick={() => onOpen(letter.dead_letter_id)}>
            Inspect
          </Button>
          <Button isSmall isBusy={acting.isBusy} label={`Redrive ${name}`} onClick={() => void redrive()}>
            Redrive
          </Button>
          <Button isSmall variant="danger" label={`Discard ${name}`} onClick={() => setDiscarding(true)}>
            Discard…
          </Button>
        </div>
        <Problem error={acting.error} />
        {isDiscarding && (
          <Confirm
            title="Discard the dead letter?"
            verb="Discard"
            isDangerous
            onClose={() => setDiscarding(false)}
            onConfirm={() => carryOut(() => api.discardDeadLetter(letter.dead_letter_id), "The dead letter is discarded.", reload)}
          >
            <p>It is given up: nobody handles it. Its row stays as a record.</p>
          </Confirm>
        )}
      </td>
    </tr>
  );
}

function Inspect({ id, onClose }: { id: string; onClose: () => void }) {
  const loaded = useLoaded(() => api.getDeadLetter(id), [id]);
  return (
    <Dialog title="Dead letter" onClose={onClose} isWide>
      <Async of={loaded}>
        {(letter) => (
          <>
            <Facts
              items={[
                ["Stream", <code class="break">{letter.stream}</code>],
                ["Group", <code class="break">{letter.group}</code>],
                ["Entry", <code class="break">{letter.entry_id}</code>],
                ["Type", letter.event_type ?? "unknown"],
                ["Reason", letter.reason.replaceAll("_", " ")],
                ["Deliveries", number(letter.attempts)],
                ["Given up", dateTime(letter.created_at)],
                letter.run_id !== null && [
                  "Run",
                  <Id value={letter.run_id} href={`/runs/${encodeURIComponent(letter.run_id)}`} />,
                ],
              ]}
            />
            <h3>Error</h3>
            <pre class="break">{letter.error}</pre>
            <h3>Body</h3>
            <JsonView value={pretty(letter.body)} label="Body" />
            <h3>Fields</h3>
            <JsonView value={letter.fields} label="Fields" />
          </>
        )}
      </Async>
    </Dialog>
  );
}

function pretty(body: string): Json {
  try {
    return JSON.parse(body) as Json;
  } catch {
    return body; // undecodable is often why it is here
  }
}
