-- Where in its document a passage is: `page 12`, `slide 3`, `sheet Prices, rows 2–9`. Empty where it has no such parts.
ALTER TABLE flotilla.passages ADD COLUMN place text NOT NULL DEFAULT '';
