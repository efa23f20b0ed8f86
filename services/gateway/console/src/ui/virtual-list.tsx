/** A long list of which only the rows in view exist. A listbox: arrows choose, the rest follows. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { isAtEnd, scrollTo, windowOf } from "../lib/virtual";

interface Props {
  label: string;
  rows: number;
  rowHeight: number;
  /** The chosen row, or -1. */
  current: number;
  onChoose: (row: number) => void;
  /** The rows that are drawn, whenever they change. */
  onWindow?: (first: number, end: number) => void;
  /** Stay at the end when rows are added, as long as the end is in view. */
  isFollowing?: boolean;
  children: (row: number) => ComponentChildren;
  rowLabel?: (row: number) => string | undefined;
}

export function VirtualList(props: Props) {
  const { label, rows, rowHeight, current, onChoose, onWindow, isFollowing = false, children } = props;
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const wasAtEnd = useRef(true);
  const id = useId();
  const { first, end } = windowOf(view.top, view.height, rowHeight, rows);

  const measure = () => {
    const element = box.current;
    if (element === null) return;
    wasAtEnd.current = isAtEnd(element.scrollTop, element.clientHeight, element.scrollHeight);
    setView((was) =>
      was.top === element.scrollTop && was.height === element.clientHeight
        ? was
        : { top: element.scrollTop, height: element.clientHeight },
    );
  };
  useEffect(() => {
    const element = box.current;
    if (element === null) return undefined;
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useEffect(() => onWindow?.(first, end), [first, end, rows]);
  useLayoutEffect(() => {
    const element = box.current;
    if (element !== null && isFollowing && wasAtEnd.current) element.scrollTop = rows * rowHeight;
    measure();
  }, [rows, rowHeight, isFollowing]);
  useLayoutEffect(() => {
    const element = box.current;
    if (element === null || current < 0) return;
    element.scrollTop = scrollTo(current, element.scrollTop, element.clientHeight, rowHeight);
    measure();
  }, [current, rowHeight]);

  const onKeyDown = (event: KeyboardEvent) => {
    const next = moved(event.key, current, rows, Math.max(1, Math.floor(view.height / rowHeight) - 1));
    if (next === null) return;
    event.preventDefault();
    onChoose(next);
  };
  const drawn = Array.from({ length: end - first }, (_, at) => first + at);
  return (
    <div
      class="virtual"
      ref={box}
      role="listbox"
      aria-label={label}
      tabIndex={0}
      aria-activedescendant={current >= first && current < end ? `${id}-${current}` : undefined}
      onScroll={measure}
      onKeyDown={onKeyDown}
    >
      <div class="virtual-space" role="presentation" style={{ height: `${rows * rowHeight}px` }}>
        {drawn.map((row) => (
          <div
            key={row}
            id={`${id}-${row}`}
            role="option"
            aria-selected={row === current}
            aria-setsize={rows}
            aria-posinset={row + 1}
            class="virtual-row"
            style={{ top: `${row * rowHeight}px`, height: `${rowHeight}px` }}
            onClick={() => onChoose(row)}
          >
            {children(row)}
          </div>
        ))}
      </div>
    </div>
  );
}

/** The row that a key leads to; null when the key is none of the list's. */
export function moved(key: string, current: number, rows: number, page: number): number | null {
  if (rows === 0) return null;
  const steps: Record<string, number> = {
    ArrowDown: current + 1,
    ArrowUp: current - 1,
    PageDown: current + page,
    PageUp: current - page,
    Home: 0,
    End: rows - 1,
  };
  const next = steps[key];
  return next === undefined ? null : Math.max(0, Math.min(rows - 1, next));
}
