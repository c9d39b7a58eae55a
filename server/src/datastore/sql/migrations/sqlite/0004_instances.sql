-- Which process is which server instance now, and which keys an instance made.
CREATE TABLE server_leases (
    instance     TEXT PRIMARY KEY,           -- UUID of the data directory
    nonce        TEXT NOT NULL,              -- of the process
    machine      TEXT NOT NULL,              -- boot and process namespace, or empty
    pid          INTEGER NOT NULL,
    started      INTEGER NOT NULL,           -- clock ticks since boot
    token        TEXT NOT NULL,              -- where its keys are, for people
    authority_id TEXT NOT NULL,              -- the active X.509 authority, or empty
    expires_at   INTEGER NOT NULL            -- Unix seconds
) STRICT, WITHOUT ROWID;

CREATE TABLE key_records (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    instance    TEXT NOT NULL,
    key_id      TEXT NOT NULL,               -- in the key manager
    kind        TEXT NOT NULL,               -- ec-p256, ec-p384, rsa-2048, rsa-4096
    spki_sha256 TEXT NOT NULL,               -- lower-case hex; empty while it is only intended
    custody     TEXT NOT NULL,               -- where it is, for people
    created_at  INTEGER NOT NULL,            -- Unix seconds
    state       TEXT NOT NULL CHECK (state IN ('intent', 'present', 'retired'))
) STRICT;
CREATE INDEX key_records_by_instance ON key_records (instance, key_id);
