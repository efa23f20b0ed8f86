/** Icons as strokes on a 24 px grid; they only repeat what a label says. */

const PATHS = {
  ask: "M4 5h16v11H9l-5 4zM8.5 9h7M8.5 12h4.5",
  approvals: "M9 11.5l2.5 2.5L16 9M5 4h14v16H5z",
  runs: "M4 6h7M4 12h12M4 18h9M14 6h6M19 12h1M16 18h4",
  sessions: "M6 4v16M6 8h9a3 3 0 0 1 3 3v1M6 20h.01M18 12v.01",
  documents: "M7 3h7l4 4v14H7zM14 3v4h4M10 12h5M10 16h5",
  orders: "M4 5h2l2 11h10l2-8H7M10 20h.01M17 20h.01",
  tools: "M14.5 5a4.5 4.5 0 0 0-4.3 5.9L4 17l3 3 6.1-6.2A4.5 4.5 0 0 0 19 8l-3 2.5-2.5-2.5z",
  money: "M4 6h16v12H4zM12 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5M7 9v.01M17 15v.01",
  fleet: "M12 4v9M12 4l-6 9h12zM3 17c2 1.8 4 1.8 6 0 2 1.8 4 1.8 6 0 2 1.8 4 1.8 6 0",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6 7 7M17 17l1.4 1.4M5.6 18.4 7 17M17 7l1.4-1.4",
  moon: "M19 14.5A7.5 7.5 0 0 1 9.5 5 7.5 7.5 0 1 0 19 14.5z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  out: "M10 5H5v14h5M14 8l4 4-4 4M18 12H9",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  fork: "M7 5v14M7 9c0 4 10 2 10 7M17 16v3M7 5h.01M17 19h.01",
  back: "M9 7l-5 5 5 5M4 12h11a5 5 0 0 1 0 10",
  download: "M12 4v11M7.5 11l4.5 4.5 4.5-4.5M5 20h14",
  upload: "M12 16V5M7.5 9 12 4.5 16.5 9M5 20h14",
  check: "M5 12.5l4.5 4.5L19 7.5",
  warn: "M12 4 3 20h18zM12 10v4M12 17v.01",
  shield: "M12 3l7 3v6c0 4.5-3 7.5-7 9-4-1.5-7-4.5-7-9V6zM9 12l2.2 2.2L15 10.5",
  external: "M14 5h5v5M19 5l-8 8M17 14v5H5V7h5",
  search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12M15.5 15.5 20 20",
  chevron: "M9 6l6 6-6 6",
  prev: "M15 6l-6 6 6 6",
  send: "M5 12h13M12 6l6 6-6 6",
  up: "M7 11v9H4v-9zM7 11l4-7c2 0 2.5 1.5 2 3l-.7 3H19l-1.5 10H7",
  down: "M7 13V4H4v9zM7 13l4 7c2 0 2.5-1.5 2-3l-.7-3H19L17.5 4H7",
  user: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8M4.5 20c1-4 4-5.5 7.5-5.5s6.5 1.5 7.5 5.5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}
