import { useRef, useState } from "preact/hooks";
import { upload } from "../api/client";
import type { AddedDocument } from "../api/types";
import { chosen, dropped, type Named } from "../lib/folder";
import { count, percent } from "../lib/format";
import { say } from "../lib/saying";
import { Icon } from "./icon";
import { Badge, Button, Problem } from "./parts";

const KINDS = ".md,.markdown,.html,.htm,.txt,.csv,.tsv,.pdf,.docx,.pptx,.xlsx,.eml,text/*";

interface Upload {
  key: number;
  name: string;
  sent: number;
  added: AddedDocument | null;
  error: unknown;
}

interface Props {
  /** Where files are posted. */
  to: string;
  /** More fields of the form, by the name of the file. */
  fieldsOf: (name: string) => Record<string, string>;
  onAdded: () => void;
  help: string;
}

/** Sends files one after the other: a folder of documents must not open a hundred connections. */
export function Uploads({ to, fieldsOf, onAdded, help }: Props) {
  const [uploads, setUploads] = useState<Upload[]>([]);
  const [isOver, setOver] = useState(false);
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const queue = useRef<Promise<void>>(Promise.resolve());
  const keys = useRef(0);
  const change = (key: number, part: Partial<Upload>) =>
    setUploads((before) => before.map((one) => (one.key === key ? { ...one, ...part } : one)));

  const add = (named: Named[]) => {
    if (named.length === 0) say("There is no file to send.");
    for (const { name, file } of named) {
      keys.current += 1;
      const key = keys.current;
      setUploads((before) => [{ key, name, sent: 0, added: null, error: null }, ...before]);
      queue.current = queue.current.then(() => send(key, name, file));
    }
  };
  const send = async (key: number, name: string, file: File) => {
    try {
      const added = await upload<AddedDocument>(to, file, name, fieldsOf(name), (sent) => change(key, { sent }));
      change(key, { added, sent: 1 });
      say(`${name} is loaded: ${count(added.passages, "passage")}.`);
      onAdded();
    } catch (error) {
      change(key, { error });
    }
  };
  const take = (input: HTMLInputElement) => {
    add(chosen(input.files));
    input.value = "";
  };
  return (
    <>
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
          dropped(event.dataTransfer).then(add, (error: unknown) => say(`The files can't be read: ${String(error)}`));
        }}
      >
        <Icon name="upload" />
        <p>Drop files or folders here (Markdown, HTML, text, CSV, PDF, Word, PowerPoint, Excel, mail), or</p>
        <input
          ref={files}
          class="hidden"
          type="file"
          multiple
          accept={KINDS}
          tabIndex={-1}
          aria-label="Files to add"
          onChange={(event) => take(event.currentTarget)}
        />
        <input
          ref={(input) => {
            folder.current = input;
            if (input !== null) input.webkitdirectory = true;
          }}
          class="hidden"
          type="file"
          tabIndex={-1}
          aria-label="Folder to add"
          onChange={(event) => take(event.currentTarget)}
        />
        <div class="row-actions">
          <Button onClick={() => files.current?.click()}>Choose files</Button>
          <Button onClick={() => folder.current?.click()}>Choose a folder</Button>
        </div>
        <p class="faint">{help}</p>
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
              <Skipped added={one.added} name={one.name} />
              <Problem error={one.error} />
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function UploadStatus({ upload: one }: { upload: Upload }) {
  if (one.error !== null) return <Badge tone="bad">refused</Badge>;
  if (one.added !== null) return <Badge tone="good">{one.added.unchanged ? "unchanged" : count(one.added.passages, "passage")}</Badge>;
  return <Badge tone="info">{one.sent < 1 ? percent(one.sent) : "reading…"}</Badge>;
}

/** What of a document was not read, and why. */
function Skipped({ added, name }: { added: AddedDocument | null; name: string }) {
  if (added === null || added.skipped.length === 0) return null;
  return (
    <ul class="skipped" aria-label={`Not read of ${name}`}>
      {added.skipped.map((why) => (
        <li key={why} class="break">
          {why}
        </li>
      ))}
    </ul>
  );
}
