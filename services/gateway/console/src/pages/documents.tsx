import { useRef, useState } from "preact/hooks";
import * as api from "../api/calls";
import { upload } from "../api/client";
import type { AddedDocument, Document, Passage as Found } from "../api/types";
import { mayOperate } from "../lib/account";
import { bytes, count, lastPart, number, percent } from "../lib/format";
import { useLoaded, usePages, useRested, useTitle } from "../lib/hooks";
import { currentQuery, setQuery } from "../lib/router";
import { carryOut, say } from "../lib/saying";
import { oneLine } from "../lib/text";
import { Passage, WholeDocument } from "../ui/answer";
import { Confirm } from "../ui/dialog";
import { Icon } from "../ui/icon";
import { Async, Badge, Button, Card, Empty, More, Page, Problem, When } from "../ui/parts";
import type { Source } from "../api/types";

const FOUND = 10;

export function DocumentsPage() {
  useTitle("Documents");
  const [open, setOpen] = useState<Document | null>(null);
  const loaded = usePages("documents", api.listDocuments, []);
  return (
    <Page title="Documents" lead="What agents may cite.">
      {mayOperate.value && <Uploads onAdded={() => void loaded.reload()} />}
      <SearchCard />
      <Card title="All documents">
        <Async of={loaded} lines={5}>
          {({ documents, next_cursor }) => (
            <>
              {documents.length === 0 ? (
                <Empty icon="documents" title="No document yet">
                  Without documents there is nothing to cite.
                </Empty>
              ) : (
                <Table documents={documents} onOpen={setOpen} reload={() => loaded.reload()} />
              )}
              <More cursor={next_cursor} onMore={loaded.more} />
            </>
          )}
        </Async>
      </Card>
      {open !== null && <WholeDocument document={open} onClose={() => setOpen(null)} />}
    </Page>
  );
}

interface TableProps {
  documents: Document[];
  onOpen: (document: Document) => void;
  reload: () => Promise<void>;
}

function Table({ documents, onOpen, reload }: TableProps) {
  return (
    <table class="list" aria-label="Documents of the knowledge base">
      <thead>
        <tr>
          <th scope="col">Title</th>
          <th scope="col" class="num">
            Passages
          </th>
          <th scope="col" class="num">
            Size
          </th>
          <th scope="col">Changed</th>
          {mayOperate.value && (
            <th scope="col">
              <span class="hidden">Actions</span>
            </th>
          )}
        </tr>
      </thead>
      <tbody>
        {documents.map((one) => (
          <tr key={one.document_id}>
            <th scope="row" data-label="Title">
              <div>
                <button type="button" class="link-button" onClick={() => onOpen(one)}>
                  {one.title}
                </button>
                <div class="faint break" title={one.uri}>
                  {lastPart(one.uri)}
                </div>
              </div>
            </th>
            <td data-label="Passages" class="num">
              {number(one.passages)}
            </td>
            <td data-label="Size" class="num">
              {bytes(one.size_bytes)}
            </td>
            <td data-label="Changed">
              <When at={one.updated_at} />
            </td>
            {mayOperate.value && (
              <td>
                <Remove document={one} reload={reload} />
              </td>
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Remove({ document: one, reload }: { document: Document; reload: () => Promise<void> }) {
  const [isAsking, setAsking] = useState(false);
  return (
    <>
      <Button isSmall variant="danger" label={`Remove ${one.title}`} onClick={() => setAsking(true)}>
        Remove…
      </Button>
      {isAsking && (
        <Confirm
          title="Remove the document?"
          verb="Remove"
          isDangerous
          onClose={() => setAsking(false)}
          onConfirm={() => carryOut(() => api.removeDocument(one.document_id), "The document is removed.", reload)}
        >
          <p>No search finds it any more. Answers that cited it keep what was recorded of it.</p>
        </Confirm>
      )}
    </>
  );
}

interface Upload {
  key: number;
  name: string;
  sent: number;
  added: AddedDocument | null;
  error: unknown;
}

/** One after the other: a folder of documents must not open a hundred connections. */
function Uploads({ onAdded }: { onAdded: () => void }) {
  const [uploads, setUploads] = useState<Upload[]>([]);
  const [isOver, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const queue = useRef<Promise<void>>(Promise.resolve());
  const keys = useRef(0);
  const change = (key: number, part: Partial<Upload>) =>
    setUploads((before) => before.map((one) => (one.key === key ? { ...one, ...part } : one)));

  const add = (files: FileList | null) => {
    for (const file of files ?? []) {
      keys.current += 1;
      const key = keys.current;
      setUploads((before) => [{ key, name: file.name, sent: 0, added: null, error: null }, ...before]);
      queue.current = queue.current.then(() => send(key, file));
    }
    if (input.current !== null) input.current.value = "";
  };
  const send = async (key: number, file: File) => {
    try {
      const added = await upload<AddedDocument>("/v1/documents", file, {}, (sent) => change(key, { sent }));
      change(key, { added, sent: 1 });
      say(`${file.name} is loaded: ${count(added.passages, "passage")}.`);
      onAdded();
    } catch (error) {
      change(key, { error });
    }
  };
  return (
    <Card title="Add documents">
      <div
        class={isOver ? "drop over" : "drop"}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          add(event.dataTransfer?.files ?? null);
        }}
      >
        <Icon name="upload" />
        <p>Drop documents here (Markdown, HTML, text, CSV, PDF, Word, PowerPoint, Excel, mail), or</p>
        <input
          ref={input}
          id="files"
          class="hidden"
          type="file"
          multiple
          accept=".md,.markdown,.html,.htm,.txt,.csv,.tsv,.pdf,.docx,.pptx,.xlsx,.eml,text/*"
          tabIndex={-1}
          aria-label="Documents to add"
          onChange={(event) => add(event.currentTarget.files)}
        />
        <Button onClick={() => input.current?.click()}>Choose files</Button>
        <p class="faint">A file of the same name replaces the one before.</p>
      </div>
      {uploads.length > 0 && (
        <ul class="uploads" aria-label="Uploads">
          {uploads.map((one) => (
            <li key={one.key}>
              <span class="break">{one.name}</span>
              <progress max={1} value={one.sent} aria-label={`${one.name} sent`}>
                {percent(one.sent)}
              </progress>
              <UploadStatus upload={one} />
              <Problem error={one.error} />
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

function UploadStatus({ upload: one }: { upload: Upload }) {
  if (one.error !== null) return <Badge tone="bad">refused</Badge>;
  if (one.added !== null) return <Badge tone="good">{one.added.unchanged ? "unchanged" : count(one.added.passages, "passage")}</Badge>;
  return <Badge tone="info">{one.sent < 1 ? percent(one.sent) : "reading…"}</Badge>;
}

function SearchCard() {
  const words = currentQuery.value.get("q") ?? "";
  const rested = useRested(words.trim(), 250);
  const [open, setOpen] = useState<Source | null>(null);
  const loaded = useLoaded(
    () => (rested === "" ? Promise.resolve({ passages: [] }) : api.search(rested, FOUND)),
    [rested],
  );
  return (
    <Card title="Search">
      <form role="search" onSubmit={(event) => event.preventDefault()}>
        <label class="list-search">
          <span class="hidden">Search the documents</span>
          <Icon name="search" />
          <input
            type="search"
            value={words}
            placeholder="What an agent would find"
            onInput={(event) => setQuery({ q: event.currentTarget.value })}
          />
        </label>
      </form>
      {rested !== "" && (
        <Async of={loaded} lines={4}>
          {({ passages }) =>
            passages.length === 0 ? <Empty icon="search" title="No passage matches" /> : <Results passages={passages} onOpen={setOpen} />
          }
        </Async>
      )}
      {open !== null && <Passage source={open} onClose={() => setOpen(null)} />}
    </Card>
  );
}

function Results({ passages, onOpen }: { passages: Found[]; onOpen: (source: Source) => void }) {
  const best = Math.max(...passages.map((one) => one.source.score), Number.EPSILON);
  return (
    <ol class="results" aria-label="Passages, best first">
      {passages.map(({ text, source }, at) => (
        <li key={source.passage_id} class="result">
          <span class="rank" aria-label={`Rank ${at + 1}`}>
            {at + 1}
          </span>
          <div>
            <button type="button" class="link-button" onClick={() => onOpen(source)}>
              {source.title}
            </button>
            <p class="score">
              <meter min={0} max={best} value={source.score} aria-label={`Score ${source.score.toFixed(3)}`} />
              {source.score.toFixed(3)} · {lastPart(source.uri)}
              {source.place !== "" && ` · ${source.place}`}
            </p>
            <p class="plain-text clip-lines">{oneLine(text, 400)}</p>
          </div>
        </li>
      ))}
    </ol>
  );
}
