-- API keys. The key itself is nowhere: `hash` is its SHA-256, which is enough for 256 bits of chance.
CREATE TABLE api_key (
    id         BLOB    PRIMARY KEY CHECK (length(id) = 16),
    hash       BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    name       TEXT    NOT NULL,
    -- Its last letters, by which people tell keys apart.
    hint       TEXT    NOT NULL,
    -- Words with commas between them.
    verbs      TEXT    NOT NULL,
    -- A JSON array of names; empty: all fleets.
    fleets     TEXT    NOT NULL,
    -- NULL: all tenants.
    tenant     TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    -- To the minute.
    used_at    INTEGER
) WITHOUT ROWID;
