/** One event of a stream, as the HTML standard (9.2.6) has them. */
export interface StreamEvent {
  event: string;
  data: string;
  id: string | null;
}

/** Cuts text into events; a piece may end anywhere. */
export class EventParser {
  #rest = "";
  #event = "";
  #data: string[] = [];
  #id: string | null = null;

  /** The events that are complete with this piece. */
  push(piece: string): StreamEvent[] {
    const text = this.#rest + piece;
    const end = text.endsWith("\r") ? text.length - 1 : text.length; // it may be half of a CRLF
    const lines = text.slice(0, end).split(/\r\n|\n|\r/);
    this.#rest = (lines.pop() ?? "") + text.slice(end);
    return lines.flatMap((line) => this.#line(line));
  }

  #line(line: string): StreamEvent[] {
    if (line === "") return this.#complete();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return [];
  }

  #complete(): StreamEvent[] {
    const found = { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
    const isEmpty = this.#data.length === 0;
    this.#event = "";
    this.#data = [];
    return isEmpty ? [] : [found];
  }
}
