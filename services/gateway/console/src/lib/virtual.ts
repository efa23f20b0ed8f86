/** Which rows of a long list are drawn. All rows are of one height, so that 10,000 cost as much as 30. */

export interface Window {
  /** First row drawn. */
  first: number;
  /** One after the last row drawn. */
  end: number;
}

/** The rows to draw for a scroll position, with some beyond each edge. */
export function windowOf(scrollTop: number, height: number, rowHeight: number, rows: number, overscan = 8): Window {
  const top = Math.max(0, Math.min(scrollTop, rows * rowHeight - height));
  const first = Math.max(0, Math.floor(top / rowHeight) - overscan);
  const end = Math.min(rows, Math.ceil((top + height) / rowHeight) + overscan);
  return { first: Math.min(first, rows), end: Math.max(end, Math.min(first, rows)) };
}

/** The scroll position that shows `row` whole, moving no further than needed. */
export function scrollTo(row: number, scrollTop: number, height: number, rowHeight: number): number {
  const top = row * rowHeight;
  if (top < scrollTop) return top;
  if (top + rowHeight > scrollTop + height) return top + rowHeight - height;
  return scrollTop;
}

/** Whether the end of the list is in view: then new rows keep it there. */
export function isAtEnd(scrollTop: number, height: number, scrollHeight: number): boolean {
  return scrollHeight - scrollTop - height < 40;
}
