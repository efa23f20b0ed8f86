-- How a key begins, so that keys of one name can be told apart. Null for keys from before, and for those chosen by people.

ALTER TABLE flotilla.api_keys ADD COLUMN hint text;
