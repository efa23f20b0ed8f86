/** A list of documents: what each is called is the page's, the rest is the same everywhere. */

import type { ComponentChildren } from "preact";
import type { Document } from "../api/types";
import { mayOperate } from "../lib/account";
import { bytes, number } from "../lib/format";
import { When } from "./parts";
import { RemoveDocument } from "./remove-document";

interface Props {
  label: string;
  /** Of the first column. */
  heading: string;
  documents: Document[];
  reload: () => Promise<void>;
  /** What the first column shows of a document. */
  children: (one: Document) => ComponentChildren;
}

export function DocumentTable({ label, heading, documents, reload, children }: Props) {
  return (
    <table class="list" aria-label={label}>
      <thead>
        <tr>
          <th scope="col">{heading}</th>
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
            <th scope="row" data-label={heading}>
              <div>{children(one)}</div>
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
