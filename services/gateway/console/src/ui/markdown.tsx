/** Untrusted Markdown as nodes. Text goes in as text; there is no way from here to markup. */

import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { hiddenDestination, parse, type Block, type Inline } from "../lib/markdown";

interface Props {
  text: string;
  /** What `[1]` stands for; without it a citation stays text. */
  onCite?: ((number: number) => void) | undefined;
  citations?: number;
}

export function Markdown({ text, onCite, citations = 0 }: Props) {
  const blocks = useMemo(() => parse(text), [text]);
  return <div class="markdown">{blocks.map((one) => block(one))}</div>;

  function block(one: Block): ComponentChildren {
    switch (one.kind) {
      case "paragraph":
        return <p>{inlines(one.children)}</p>;
      case "heading":
        // Below the page's own headings.
        return <p class={`heading level-${Math.min(one.level, 4)}`}>{inlines(one.children)}</p>;
      case "list":
        return list(one);
      case "quote":
        return <blockquote>{one.children.map(block)}</blockquote>;
      case "code":
        return (
          <pre tabIndex={0}>
            <code>{one.text}</code>
          </pre>
        );
      case "table":
        return table(one);
      case "rule":
        return <hr />;
    }
  }

  function list({ ordered, start, items }: Extract<Block, { kind: "list" }>): ComponentChildren {
    const rows = items.map((item, at) => <li key={at}>{item.map(itemBlock)}</li>);
    return ordered ? <ol start={start}>{rows}</ol> : <ul>{rows}</ul>;
  }

  function itemBlock(one: Block): ComponentChildren {
    return one.kind === "paragraph" ? <div>{inlines(one.children)}</div> : block(one);
  }

  function table({ head, rows }: Extract<Block, { kind: "table" }>): ComponentChildren {
    return (
      <div class="table-scroll" tabIndex={0}>
        <table>
          <thead>
            <tr>
              {head.map((cell, at) => (
                <th key={at} scope="col">
                  {inlines(cell)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row, at) => (
              <tr key={at}>
                {row.map((cell, column) => (
                  <td key={column}>{inlines(cell)}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    );
  }

  function inlines(parts: Inline[]): ComponentChildren {
    return parts.map(inline);
  }

  function inline(part: Inline): ComponentChildren {
    switch (part.kind) {
      case "text":
        return part.text;
      case "code":
        return <code>{part.text}</code>;
      case "strong":
        return <strong>{inlines(part.children)}</strong>;
      case "em":
        return <em>{inlines(part.children)}</em>;
      case "link":
        return link(part);
      case "citation":
        return citation(part.number);
    }
  }

  /** Labels come from documents and models, so the host is shown behind them; `bdi` keeps either from turning the other around. */
  function link({ href, children }: Extract<Inline, { kind: "link" }>): ComponentChildren {
    const hidden = hiddenDestination(href, plain(children));
    return (
      <>
        <a href={href} target="_blank" rel="noopener noreferrer nofollow">
          <bdi>{inlines(children)}</bdi>
        </a>
        {hidden !== null && (
          <>
            {" "}
            <bdi class="link-host">({hidden})</bdi>
          </>
        )}
      </>
    );
  }

  function citation(number: number): ComponentChildren {
    if (onCite === undefined || number < 1 || number > citations) return `[${number}]`;
    return (
      <button type="button" class="citation" aria-label={`Source ${number}`} onClick={() => onCite(number)}>
        {number}
      </button>
    );
  }
}

/** What a link's label says, if it is text alone. */
function plain(children: Inline[]): string {
  const [only] = children;
  return children.length === 1 && only?.kind === "text" ? only.text : "";
}
