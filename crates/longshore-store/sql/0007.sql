-- Child tasks, questions to people, the cache that a fleet's agents share; attempts that end by waiting.

-- SQLite cannot change a CHECK: the table is made anew, with `waited` among the outcomes.
CREATE TABLE attempt_new (
    ord        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    worker     TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    outcome    TEXT    CHECK (outcome IN ('succeeded', 'failed', 'interrupted', 'waited')),
    reason     TEXT,
    -- Who wrote the ending: a worker that repeats its own is told yes again.
    writer     TEXT    CHECK (writer IN ('worker', 'control')),
    -- Number of the newest event of its agent; above 0: it made progress.
    last_n     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (ord, number),
    CHECK ((ended_at IS NULL) = (outcome IS NULL) AND (ended_at IS NULL) = (writer IS NULL))
) WITHOUT ROWID;
INSERT INTO attempt_new (ord, number, fence, worker, started_at, ended_at, outcome, reason, writer, last_n)
SELECT ord, number, fence, worker, started_at, ended_at, outcome, reason, writer, last_n FROM attempt;
DROP TABLE attempt;
ALTER TABLE attempt_new RENAME TO attempt;

-- A child by its name among its parent's children; `seq` is the order in which they were submitted.
CREATE TABLE child (
    parent INTEGER NOT NULL,
    name   TEXT    NOT NULL,
    seq    INTEGER NOT NULL,
    ord    INTEGER NOT NULL UNIQUE,
    -- It goes on when its parent is cancelled.
    detach INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE INDEX child_by_seq ON child (parent, seq);

-- Cancelled tasks whose children are still to be cancelled: a few at a time.
CREATE TABLE orphaned (ord INTEGER PRIMARY KEY);

-- A question belongs to its task and outlives generations, as a step does. Whether it is open follows from the times.
CREATE TABLE question (
    ord         INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    question    TEXT    NOT NULL,
    schema      TEXT,
    asked_at    INTEGER NOT NULL,
    expires_at  INTEGER,
    on_expiry   TEXT    NOT NULL CHECK (on_expiry IN ('fail', 'resume')),
    answered_at INTEGER,
    answer      TEXT,
    PRIMARY KEY (ord, name),
    CHECK ((answered_at IS NULL) = (answer IS NULL))
) WITHOUT ROWID;

-- Values may be large, so this one is no table without rowid.
CREATE TABLE cache (
    fleet      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    kind       TEXT,
    value      BLOB    NOT NULL,
    weight     INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (fleet, key)
);
CREATE INDEX cache_by_expiry ON cache (fleet, expires_at);
CREATE INDEX cache_expired ON cache (expires_at);

-- What the entries of each fleet add up to.
CREATE TABLE cache_total (fleet TEXT PRIMARY KEY, weight INTEGER NOT NULL CHECK (weight >= 0)) WITHOUT ROWID;
