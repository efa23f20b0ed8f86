/** Archives: histories that are over go to a file, and come back from it. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "../api/calls";
import type { ArchivableSession, ArchivedSession, AuditRequest } from "../api/types";
import { isAdmin } from "../lib/account";
import { MOST_BYTES, canReadArchives, checkExport, compressed, digestOf, eventsIn, inParts } from "../lib/archive-file";
import { number } from "../lib/format";
import { useActing, useLoaded, usePages, useTitle } from "../lib/hooks";
import { carryOut } from "../lib/saying";
import { Dialog } from "../ui/dialog";
import { Async, Button, Card, Empty, Field, Id, More, Page, Problem, Status, When } from "../ui/parts";

const POLL_MS = 5000;
const ASK_MS = 1000;
const INSECURE = "This browser makes and reads archives over https only. flotilla audit archive does it anywhere.";
const LARGE = "This is too much for a browser: use flotilla audit archive and restore.";

export function ArchivesPage() {
  useTitle("Archives");
  const archived = usePages("archives", api.listArchives, [], POLL_MS);
  if (!isAdmin.value) return <Empty icon="documents" title="For administrators" />;
  return (
    <Page
      title="Archives"
      lead="The histories of sessions that are over, in files that prove them. What is there no longer takes space here."
    >
      {!canReadArchives() && <p class="note">{INSECURE}</p>}
      <Archivable reload={archived.reload} />
      <Card title="In archives">
        <Async of={archived}>
          {({ archives, next_cursor }) =>
            archives.length === 0 ? (
              <p class="faint">Nothing was archived.</p>
            ) : (
              <>
                <Archived archives={archives} reload={archived.reload} />
                <More cursor={next_cursor} onMore={archived.more} />
              </>
            )
          }
        </Async>
      </Card>
    </Page>
  );
}

function Archivable({ reload }: { reload: () => Promise<void> }) {
  const [day, setDay] = useState(monthAgo());
  const [isArchiving, setArchiving] = useState(false);
  const loaded = useLoaded(() => api.listArchivable(`${day}T00:00:00Z`), [day]);
  const reloadBoth = async () => {
    await Promise.all([loaded.reload(), reload()]);
  };
  return (
    <Card title="Over">
      <Field label="Without an event since" help="Sessions that are open, held, parked or not signed to their end stay.">
        {(ids) => (
          <input {...ids} type="date" required value={day} onInput={(event) => setDay(event.currentTarget.value || day)} />
        )}
      </Field>
      <Async of={loaded}>
        {({ sessions }) =>
          sessions.length === 0 ? (
            <p class="faint">None.</p>
          ) : (
            <>
              <table class="list" aria-label="Sessions that can be archived">
                <thead>
                  <tr>
                    <th scope="col">Session</th>
                    <th scope="col" class="num">
                      Events
                    </th>
                    <th scope="col">Newest</th>
                  </tr>
                </thead>
                <tbody>
                  {sessions.map((one) => (
                    <tr key={one.session_id}>
                      <th scope="row" data-label="Session">
                        <Id value={one.session_id} href={`/sessions/${encodeURIComponent(one.session_id)}`} />
                      </th>
                      <td data-label="Events" class="num">
                        {number(one.seq)}
                      </td>
                      <td data-label="Newest">
                        <When at={one.newest_at} />
                      </td>
                    </tr>
                  ))}
                </tbody>
              </table>
              <Button variant="primary" disabled={!canReadArchives()} onClick={() => setArchiving(true)}>
                Archive {number(sessions.length)}…
              </Button>
              {isArchiving && <Archive sessions={sessions} reload={reloadBoth} onClose={() => setArchiving(false)} />}
            </>
          )
        }
      </Async>
    </Card>
  );
}

interface ArchiveProps {
  sessions: ArchivableSession[];
  reload: () => Promise<void>;
  onClose: () => void;
}

interface Made {
  name: string;
  digest: string;
}

function Archive({ sessions, reload, onClose }: ArchiveProps) {
  const [made, setMade] = useState<Made | null>(null);
  const [saved, setSaved] = useState<File | null>(null);
  const [place, setPlace] = useState("");
  const acting = useActing();
  const isClosed = useIsClosed();
  const make = async () => {
    const file = await compressed(await checkedExports(sessions));
    const digest = await digestOf(file);
    const name = `sessions-${digest.slice(0, 32)}.jsonl.gz`;
    download(file, name);
    setPlace(name);
    setMade({ name, digest });
  };
  const archive = async () => {
    if (made === null || saved === null || (await digestOf(saved)) !== made.digest) {
      throw new Error(`This is not the file ${made?.name ?? ""} that was made: nothing was archived.`);
    }
    const named = sessions.map(({ session_id, seq }) => ({ session_id, seq }));
    const asked = await api.archiveSessions({ file: place.trim(), file_sha256: made.digest, sessions: named });
    await carryOut(() => outcomeOf(asked, isClosed), "Archived, but for those that went on or are held by now.", reload);
  };
  return (
    <Dialog title={`Archive ${number(sessions.length)} sessions`} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void acting.run(made === null ? make : archive).then((isDone) => isDone && made !== null && onClose());
        }}
      >
        <div class="dialog-text">
          Each history is checked, and written to a file that you save. Their events leave the database once you show that the
          file is saved, and only from it can they be read again. Kafka keeps its copy.
        </div>
        {made !== null && (
          <>
            <Field label="The saved file" help={made.name}>
              {(ids) => (
                <input
                  {...ids}
                  type="file"
                  required
                  accept=".gz"
                  onChange={(event) => setSaved(event.currentTarget.files?.[0] ?? null)}
                />
              )}
            </Field>
            <Field label="Where it is kept" help="For those who restore it; it is recorded in the history.">
              {(ids) => (
                <input
                  {...ids}
                  required
                  maxLength={1000}
                  value={place}
                  onInput={(event) => setPlace(event.currentTarget.value)}
                />
              )}
            </Field>
          </>
        )}
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button
            type="submit"
            variant={made === null ? "primary" : "danger"}
            isBusy={acting.isBusy}
            disabled={made !== null && (saved === null || place.trim() === "")}
          >
            {made === null ? "Make the file" : "Archive"}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

function Archived({ archives, reload }: { archives: ArchivedSession[]; reload: () => Promise<void> }) {
  const [restored, setRestored] = useState<ArchivedSession | null>(null);
  return (
    <>
      <table class="list" aria-label="Archived sessions">
        <thead>
          <tr>
            <th scope="col">Session</th>
            <th scope="col" class="num">
              Events to
            </th>
            <th scope="col">Is</th>
            <th scope="col">File</th>
            <th scope="col">By</th>
            <th scope="col">Asked</th>
            <th scope="col">
              <span class="hidden">What can be done</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {archives.map((one) => (
            <tr key={`${one.session_id} ${one.seq}`}>
              <th scope="row" data-label="Session">
                <Id value={one.session_id} href={`/sessions/${encodeURIComponent(one.session_id)}`} />
              </th>
              <td data-label="Events to" class="num">
                {number(one.seq)}
              </td>
              <td data-label="Is">
                <Status value={stateOf(one)} />
              </td>
              <td data-label="File">
                <code class="break">{one.file}</code>
              </td>
              <td data-label="By">{one.archived_by}</td>
              <td data-label="Asked">
                <When at={one.asked_at} />
              </td>
              <td>
                {one.is_away && (
                  <Button
                    isSmall
                    disabled={!canReadArchives()}
                    label={`Restore ${one.session_id}`}
                    onClick={() => setRestored(one)}
                  >
                    Restore…
                  </Button>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {restored !== null && <Restore archive={restored} reload={reload} onClose={() => setRestored(null)} />}
    </>
  );
}

interface RestoreProps {
  archive: ArchivedSession;
  reload: () => Promise<void>;
  onClose: () => void;
}

function Restore({ archive, reload, onClose }: RestoreProps) {
  const [file, setFile] = useState<File | null>(null);
  const acting = useActing();
  const isClosed = useIsClosed();
  const restore = async () => {
    const session = archive.session_id;
    for (const events of inParts(await checkedEvents(archive, file))) await api.returnEvents(session, events);
    await outcomeOf(await api.restoreSession(session), isClosed);
  };
  return (
    <Dialog title={`Restore ${archive.session_id}`} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void acting
            .run(() => carryOut(restore, "The events are back.", reload))
            .then((isDone) => isDone && onClose());
        }}
      >
        <div class="dialog-text">Events are taken back only if they are those that left, hash by hash.</div>
        <Field label="File of the archive" help={archive.file}>
          {(ids) => (
            <input
              {...ids}
              type="file"
              required
              accept=".gz"
              onChange={(event) => setFile(event.currentTarget.files?.[0] ?? null)}
            />
          )}
        </Field>
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" variant="primary" isBusy={acting.isBusy} disabled={file === null}>
            Restore
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

function useIsClosed(): () => boolean {
  const closed = useRef(false);
  useEffect(() => () => void (closed.current = true), []);
  return () => closed.current;
}

async function checkedExports(sessions: readonly ArchivableSession[]): Promise<string[]> {
  const exports: string[] = [];
  let size = 0;
  for (const { session_id, seq, hash } of sessions) {
    const text = await api.exportSession(session_id);
    size += text.length;
    if (size > MOST_BYTES) throw new Error(LARGE);
    await checkExport(text, session_id, seq, hash);
    exports.push(text);
  }
  return exports;
}

async function checkedEvents(archive: ArchivedSession, file: File | null) {
  if (file === null || file.size > MOST_BYTES) throw new Error(LARGE);
  if ((await digestOf(file)) !== archive.file_sha256) throw new Error(`This is another file than ${archive.file}.`);
  return eventsIn(file, archive.session_id);
}

/** Waits until the audit consumer has done what was asked for, or the dialog is closed: it is done then, too. */
async function outcomeOf(request: AuditRequest, isClosed: () => boolean): Promise<void> {
  let seen = request;
  while (seen.finished_at === null) {
    if (isClosed()) throw new Error("The dialog was closed.");
    await new Promise((resolve) => setTimeout(resolve, ASK_MS));
    seen = await api.getAuditRequest(request.request_id);
  }
  const { ok, error } = seen.outcome ?? {};
  if (ok !== true) throw new Error(typeof error === "string" ? error : "It failed, without a reason.");
}

function stateOf(one: ArchivedSession): string {
  if (one.is_away) return "archived";
  return one.archived_at === null ? "pending" : "restored";
}

function download(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // The browser has begun to save it by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function monthAgo(): string {
  return new Date(Date.now() - 30 * 86_400_000).toISOString().slice(0, 10);
}
