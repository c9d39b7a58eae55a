-- Where the bundles of foreign trust domains come from. The bundle itself is a row of bundles: deleting a
-- relationship leaves it there.
CREATE TABLE federation_relationships (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    trust_domain        TEXT NOT NULL UNIQUE,
    bundle_endpoint_url TEXT NOT NULL,
    profile             TEXT NOT NULL CHECK (profile IN ('https_web', 'https_spiffe')),
    endpoint_spiffe_id  TEXT,                -- with https_spiffe only
    CHECK ((profile = 'https_spiffe') = (endpoint_spiffe_id IS NOT NULL))
) STRICT;
