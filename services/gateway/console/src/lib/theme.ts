/** Light or dark: the system's, or what was chosen. */

import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const KEY = "flotilla-theme"; // index.html reads it, too, before the first paint

export const theme = signal<Theme>(stored());

function stored(): Theme {
  const value = localStorage.getItem(KEY);
  return value === "light" || value === "dark" ? value : "system";
}

export function setTheme(next: Theme): void {
  theme.value = next;
  if (next === "system") {
    localStorage.removeItem(KEY);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(KEY, next);
    document.documentElement.dataset.theme = next;
  }
}
