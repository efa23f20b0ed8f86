/** Documents of one session: only its questions find them. */

import * as api from "../api/calls";
import type { Document } from "../api/types";
import { mayOperate } from "../lib/account";
import { bytes, number } from "../lib/format";
import { usePages } from "../lib/hooks";
import { useState } from "preact/hooks";
import { WholeDocument } from "../ui/answer";
import { Async, Card, Empty, More, When } from "../ui/parts";
import { RemoveDocument } from "../ui/remove-document";
import { Uploads } from "../ui/uploads";

export function SessionAttachments({ session }: { session: string }) {
  const [open, setOpen] = useState<Document | null>(null);
  const loaded = usePages("documents", (cursor) => api.listAttachments(session, cursor), [session]);
  return (
    <Card title="Attachments">
      {mayOperate.value && (
        <Uploads
          to={api.attachmentsOf(session)}
          fieldsOf={() => ({})}
          onAdded={() => void loaded.reload()}
          help="Only questions of this session find them, and who may read the session reads them."
        />
      )}
      <Async of={loaded} lines={2}>
        {({ documents, next_cursor }) => (
          <>
            {documents.length === 0 ? (
              <Empty icon="documents" title="No attachment" />
            ) : (
              <List session={session} documents={documents} onOpen={setOpen} reload={() => loaded.reload()} />
            )}
            <More cursor={next_cursor} onMore={loaded.more} />
          </>
        )}
      </Async>
      {open !== null && <WholeDocument document={open} onClose={() => setOpen(null)} />}
    </Card>
  );
}

interface ListProps {
  session: string;
  documents: Document[];
  onOpen: (document: Document) => void;
  reload: () => Promise<void>;
}

function List({ session, documents, onOpen, reload }: ListProps) {
  return (
    <table class="list" aria-label="Attachments of this session">
      <thead>
        <tr>
          <th scope="col">File</th>
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
            <th scope="row" data-label="File">
              <div>
                <button type="button" class="link-button break" onClick={() => onOpen(one)}>
                  {one.uri.slice(api.attachmentPrefix(session).length)}
                </button>
                <div class="faint break">{one.title}</div>
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
                <RemoveDocument document={one} reload={reload} />
              </td>
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
