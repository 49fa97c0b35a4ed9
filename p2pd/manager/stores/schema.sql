-- Version 1. The version is PRAGMA user_version; sqlite.py refuses a newer one untouched.
CREATE TABLE peer (
    id          TEXT PRIMARY KEY,   -- 32 hex digits
    name        TEXT NOT NULL,      -- the name it had last
    cookie_hash TEXT NOT NULL,      -- SHA-256 of its cookie, hex
    seen        INTEGER NOT NULL    -- Unix time in seconds
) WITHOUT ROWID;
CREATE INDEX peer_seen ON peer (seen);
PRAGMA user_version = 1;
