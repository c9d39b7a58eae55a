-- Which process is which server instance now, and which keys an instance made. Each statement can be run again.
CREATE TABLE IF NOT EXISTS server_leases (
    instance     VARBINARY(64) NOT NULL PRIMARY KEY,
    nonce        VARBINARY(64) NOT NULL,
    machine      VARBINARY(255) NOT NULL,
    pid          BIGINT NOT NULL,
    started      BIGINT NOT NULL,
    token        MEDIUMBLOB NOT NULL,
    authority_id VARBINARY(255) NOT NULL,
    expires_at   BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS key_records (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    instance    VARBINARY(64) NOT NULL,
    key_id      VARBINARY(64) NOT NULL,
    kind        VARBINARY(64) NOT NULL,
    spki_sha256 VARBINARY(64) NOT NULL,
    custody     MEDIUMBLOB NOT NULL,
    created_at  BIGINT NOT NULL,
    state       VARBINARY(16) NOT NULL CHECK (state IN ('intent', 'present', 'retired')),
    INDEX key_records_by_instance (instance, key_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
