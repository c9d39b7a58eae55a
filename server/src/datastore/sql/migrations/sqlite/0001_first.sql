-- Times are whole seconds since 1970. STRICT tables refuse values of another type.

CREATE TABLE bundles (
    trust_domain TEXT PRIMARY KEY,
    data         BLOB NOT NULL,              -- spire.common.Bundle
    revision     INTEGER NOT NULL            -- of the row; grows with every write
) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    entry_id          TEXT NOT NULL UNIQUE,
    spiffe_id         TEXT NOT NULL,
    parent_id         TEXT NOT NULL,
    x509_svid_ttl     INTEGER NOT NULL,
    jwt_svid_ttl      INTEGER NOT NULL,
    admin             INTEGER NOT NULL,
    downstream        INTEGER NOT NULL,
    expires_at        INTEGER NOT NULL,      -- 0: never
    revision_number   INTEGER NOT NULL,
    store_svid        INTEGER NOT NULL,
    hint              TEXT NOT NULL,
    created_at        INTEGER NOT NULL,
    disable_prefetch  INTEGER NOT NULL,
    include_jti       INTEGER NOT NULL
) STRICT;
CREATE INDEX entries_by_spiffe_id ON entries (spiffe_id);
CREATE INDEX entries_by_parent_id ON entries (parent_id);
CREATE INDEX entries_by_hint ON entries (hint) WHERE hint <> '';
CREATE INDEX entries_by_expiry ON entries (expires_at) WHERE expires_at <> 0;

CREATE TABLE entry_selectors (
    entry INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    kind  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (entry, kind, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_selectors_by_value ON entry_selectors (kind, value);

CREATE TABLE entry_dns_names (
    entry    INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name     TEXT NOT NULL,
    PRIMARY KEY (entry, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE entry_federates (
    entry        INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    trust_domain TEXT NOT NULL REFERENCES bundles (trust_domain) ON DELETE RESTRICT,
    PRIMARY KEY (entry, trust_domain)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_federates_by_trust_domain ON entry_federates (trust_domain);

CREATE TABLE nodes (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    spiffe_id         TEXT NOT NULL UNIQUE,
    attestation_type  TEXT NOT NULL,
    serial_number     TEXT NOT NULL,         -- empty: banned
    expires_at        INTEGER NOT NULL,
    new_serial_number TEXT NOT NULL,         -- empty: none pending
    new_expires_at    INTEGER,
    can_reattest      INTEGER NOT NULL,
    agent_version     TEXT NOT NULL
) STRICT;

CREATE TABLE node_selectors (
    node  INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    kind  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (node, kind, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_selectors_by_value ON node_selectors (kind, value);

CREATE TABLE node_records (
    attestor TEXT NOT NULL,
    key      TEXT NOT NULL,
    node     INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    data     BLOB NOT NULL,
    PRIMARY KEY (attestor, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_records_by_node ON node_records (node);

CREATE TABLE join_tokens (
    token_hash TEXT PRIMARY KEY,             -- SHA-256 of the token, hex: the secret itself is not kept
    expires_at INTEGER NOT NULL,
    bound_key  TEXT                          -- SHA-256 of the public key that redeemed it, hex
) STRICT, WITHOUT ROWID;

CREATE TABLE journals (
    id                       INTEGER PRIMARY KEY AUTOINCREMENT,
    data                     BLOB NOT NULL,
    active_x509_authority_id TEXT NOT NULL
) STRICT;
CREATE INDEX journals_by_authority ON journals (active_x509_authority_id);

CREATE TABLE tpm_enrolments (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    ek_hash    TEXT NOT NULL UNIQUE,
    agent_path TEXT UNIQUE,
    note       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- What changed, for caches: kind 0 is an entry (key: entry_id), kind 1 a node (key: SPIFFE ID).
CREATE TABLE changes (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    kind INTEGER NOT NULL,
    key  TEXT NOT NULL
) STRICT;
