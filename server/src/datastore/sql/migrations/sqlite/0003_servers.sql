-- One schema for three engines. The row of counters that says how far the log of changes is orders whoever
-- writes to it, where there is no other lock on the whole database. KEY is a word of SQL on MySQL.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters (name, value)
    SELECT 'changes', coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0);
ALTER TABLE changes RENAME COLUMN key TO object;
ALTER TABLE node_records RENAME COLUMN key TO record_key;
