-- What SQLite has after its steps 1 to 3. Times are whole seconds since 1970. Texts are VARBINARY: they compare
-- byte for byte, where every collation that MySQL and MariaDB share takes `a` and `a ` for the same. An index
-- takes 3072 bytes at most, so what may be longer has an index of its beginning.
-- MySQL commits after each statement, so each can be run again when the step was cut short.

CREATE TABLE IF NOT EXISTS bundles (
    trust_domain VARBINARY(255) NOT NULL PRIMARY KEY,
    data         LONGBLOB NOT NULL,
    revision     BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS entries (
    id                BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    entry_id          VARBINARY(255) NOT NULL UNIQUE,
    spiffe_id         VARBINARY(2048) NOT NULL,
    parent_id         VARBINARY(2048) NOT NULL,
    x509_svid_ttl     BIGINT NOT NULL,
    jwt_svid_ttl      BIGINT NOT NULL,
    admin             BIGINT NOT NULL,
    downstream        BIGINT NOT NULL,
    expires_at        BIGINT NOT NULL,
    revision_number   BIGINT NOT NULL,
    store_svid        BIGINT NOT NULL,
    hint              VARBINARY(1024) NOT NULL,
    created_at        BIGINT NOT NULL,
    disable_prefetch  BIGINT NOT NULL,
    include_jti       BIGINT NOT NULL,
    INDEX entries_by_spiffe_id (spiffe_id),
    INDEX entries_by_parent_id (parent_id),
    INDEX entries_by_hint (hint),
    INDEX entries_by_expiry (expires_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS entry_selectors (
    entry BIGINT NOT NULL,
    kind  VARBINARY(1024) NOT NULL,
    value MEDIUMBLOB NOT NULL,
    INDEX entry_selectors_by_entry (entry),
    INDEX entry_selectors_by_value (kind(64), value(512)),
    FOREIGN KEY (entry) REFERENCES entries (id) ON DELETE CASCADE
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS entry_dns_names (
    entry    BIGINT NOT NULL,
    position BIGINT NOT NULL,
    name     VARBINARY(1024) NOT NULL,
    PRIMARY KEY (entry, position),
    FOREIGN KEY (entry) REFERENCES entries (id) ON DELETE CASCADE
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS entry_federates (
    entry        BIGINT NOT NULL,
    trust_domain VARBINARY(255) NOT NULL,
    PRIMARY KEY (entry, trust_domain),
    INDEX entry_federates_by_trust_domain (trust_domain),
    FOREIGN KEY (entry) REFERENCES entries (id) ON DELETE CASCADE,
    FOREIGN KEY (trust_domain) REFERENCES bundles (trust_domain) ON DELETE RESTRICT
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS nodes (
    id                BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    spiffe_id         VARBINARY(2048) NOT NULL UNIQUE,
    attestation_type  VARBINARY(255) NOT NULL,
    serial_number     VARBINARY(255) NOT NULL,
    expires_at        BIGINT NOT NULL,
    new_serial_number VARBINARY(255) NOT NULL,
    new_expires_at    BIGINT NULL,
    can_reattest      BIGINT NOT NULL,
    agent_version     VARBINARY(1024) NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS node_selectors (
    node  BIGINT NOT NULL,
    kind  VARBINARY(1024) NOT NULL,
    value MEDIUMBLOB NOT NULL,
    INDEX node_selectors_by_node (node),
    INDEX node_selectors_by_value (kind(64), value(512)),
    FOREIGN KEY (node) REFERENCES nodes (id) ON DELETE CASCADE
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS node_records (
    attestor   VARBINARY(255) NOT NULL,
    record_key VARBINARY(1024) NOT NULL,
    node       BIGINT NOT NULL,
    data       LONGBLOB NOT NULL,
    PRIMARY KEY (attestor, record_key),
    INDEX node_records_by_node (node),
    FOREIGN KEY (node) REFERENCES nodes (id) ON DELETE CASCADE
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS join_tokens (
    token_hash VARBINARY(64) NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL,
    bound_key  VARBINARY(64) NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS journals (
    id                       BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    data                     LONGBLOB NOT NULL,
    active_x509_authority_id VARBINARY(255) NOT NULL,
    INDEX journals_by_authority (active_x509_authority_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS tpm_enrolments (
    id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    ek_hash    VARBINARY(64) NOT NULL UNIQUE,
    agent_path VARBINARY(2048) NULL UNIQUE,
    note       MEDIUMBLOB NOT NULL,
    created_at BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS federation_relationships (
    id                  BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    trust_domain        VARBINARY(255) NOT NULL UNIQUE,
    bundle_endpoint_url BLOB NOT NULL,
    profile             VARBINARY(16) NOT NULL CHECK (profile IN ('https_web', 'https_spiffe')),
    endpoint_spiffe_id  VARBINARY(2048) NULL,
    CHECK ((profile = 'https_spiffe') = (endpoint_spiffe_id IS NOT NULL))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS changes (
    seq    BIGINT NOT NULL PRIMARY KEY,
    kind   BIGINT NOT NULL,
    object VARBINARY(2048) NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS counters (
    name  VARBINARY(64) NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
INSERT IGNORE INTO counters (name, value) VALUES ('changes', 0);
