/** Messages for the person, on screen and for a screen reader. */

import { signal } from "@preact/signals";

export const saying = signal<{ text: string; turn: number }>({ text: "", turn: 0 });

/** Shows a message. */
export function say(text: string): void {
  saying.value = { text, turn: saying.value.turn + 1 };
}

/** Does something, says that it is done, and loads again what it changed. */
export async function carryOut(work: () => Promise<unknown>, done: string, reload: () => Promise<void>): Promise<void> {
  await work();
  say(done);
  await reload();
}
