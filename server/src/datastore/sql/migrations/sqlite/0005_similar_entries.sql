-- Whether a similar entry is there is asked for each new one. Without statistics SQLite takes either of two indexes, and
-- went through all entries of an agent or through all that give one identity. MySQL and PostgreSQL count before they choose.
CREATE INDEX entries_by_parent_and_spiffe_id ON entries (parent_id, spiffe_id);
DROP INDEX entries_by_parent_id;
