-- The embedded store, version 1. Forward only: change it by a new file.
--
-- `ord` numbers tasks in order of submission and is what tables refer to. Hot tables (runnable, delayed, lease) hold
-- only tasks that are unfinished; a finished task is in the cold ones alone. Times are milliseconds since 1970, or
-- of service time where the name says so.

CREATE TABLE task (
    ord             INTEGER PRIMARY KEY,
    id              BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    fleet           TEXT    NOT NULL,
    state           TEXT    NOT NULL
        CHECK (state IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')),
    -- Why it is queued; nothing else has one.
    hold            TEXT    CHECK (hold IN ('ready', 'scheduled', 'backoff', 'conversation')),
    priority        INTEGER NOT NULL,
    run_at          INTEGER,
    due_at          INTEGER,
    timeout_ms      INTEGER NOT NULL,
    max_attempts    INTEGER NOT NULL,
    on_interrupt    TEXT    NOT NULL CHECK (on_interrupt IN ('resume', 'fail')),
    backoff_base_ms INTEGER NOT NULL,
    backoff_cap_ms  INTEGER NOT NULL,
    labels          TEXT    NOT NULL,
    conversation    TEXT,
    conv_seq        INTEGER,
    publish_input   INTEGER NOT NULL,
    retry_of        BLOB,
    -- Its next attempt runs with nothing beside it.
    alone           INTEGER NOT NULL DEFAULT 0,
    failed_attempts INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    interrupted     INTEGER NOT NULL DEFAULT 0,
    strikes         INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    cancel_reason   TEXT,
    failure         TEXT,
    created_at      INTEGER NOT NULL,
    started_at      INTEGER,
    finished_at     INTEGER,
    last_event      INTEGER NOT NULL DEFAULT 0,
    CHECK ((hold IS NOT NULL) = (state = 'queued')),
    CHECK ((due_at IS NOT NULL) = (hold IS NOT NULL AND hold IN ('scheduled', 'backoff'))),
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))),
    CHECK ((conversation IS NULL) = (conv_seq IS NULL)),
    CHECK (hold IS NOT 'conversation' OR conversation IS NOT NULL)
);
CREATE INDEX task_by_conversation ON task (conversation, id) WHERE conversation IS NOT NULL;
-- The rare endings, which people look for among the many.
CREATE INDEX task_failed ON task (id) WHERE state = 'failed';
CREATE INDEX task_cancelled ON task (id) WHERE state = 'cancelled';

-- Payloads apart, so that a change of state does not rewrite them.
CREATE TABLE input  (ord INTEGER PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE result (ord INTEGER PRIMARY KEY, data TEXT NOT NULL);

-- Could run now. `rank` is the negated priority, so that the primary key is the order of claims.
CREATE TABLE runnable (
    fleet TEXT    NOT NULL,
    rank  INTEGER NOT NULL,
    ord   INTEGER NOT NULL,
    alone INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (fleet, rank, ord)
) WITHOUT ROWID;
CREATE INDEX runnable_since ON runnable (fleet, since);

CREATE TABLE delayed (
    due_at INTEGER NOT NULL,
    ord    INTEGER NOT NULL,
    PRIMARY KEY (due_at, ord)
) WITHOUT ROWID;

CREATE TABLE lease (
    ord        INTEGER PRIMARY KEY,
    fence      INTEGER NOT NULL UNIQUE,
    worker     TEXT    NOT NULL,
    claim_seq  INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    -- Service time.
    expires_ms INTEGER NOT NULL,
    alone      INTEGER NOT NULL,
    cancel     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX lease_by_worker ON lease (worker);

CREATE TABLE attempt (
    ord        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    worker     TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    outcome    TEXT    CHECK (outcome IN ('succeeded', 'failed', 'interrupted')),
    reason     TEXT,
    -- Who wrote the ending: a worker that repeats its own is told yes again.
    writer     TEXT    CHECK (writer IN ('worker', 'control')),
    -- Number of the newest event of its agent; above 0: it made progress.
    last_n     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (ord, number),
    CHECK ((ended_at IS NULL) = (outcome IS NULL) AND (ended_at IS NULL) = (writer IS NULL))
) WITHOUT ROWID;

-- Only ever added to.
CREATE TABLE event (
    ord  INTEGER NOT NULL,
    seq  INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    kind TEXT    NOT NULL,
    data TEXT    NOT NULL,
    PRIMARY KEY (ord, seq)
) WITHOUT ROWID;

CREATE TABLE conversation (
    id       TEXT    PRIMARY KEY,
    next_seq INTEGER NOT NULL,
    messages INTEGER NOT NULL
) WITHOUT ROWID;

-- Unfinished tasks of a conversation; the lowest `seq` is its head.
CREATE TABLE conversation_queue (
    conversation TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    ord          INTEGER NOT NULL,
    PRIMARY KEY (conversation, seq)
) WITHOUT ROWID;

CREATE TABLE message (
    conversation TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    ord          INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    data         TEXT    NOT NULL,
    PRIMARY KEY (conversation, seq)
) WITHOUT ROWID;

-- What an attempt appends to its conversation, until it succeeds.
CREATE TABLE staged_message (
    ord   INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    data  TEXT    NOT NULL,
    PRIMARY KEY (ord, fence, n)
) WITHOUT ROWID;

CREATE TABLE worker (
    id            TEXT    PRIMARY KEY,
    fleet         TEXT    NOT NULL,
    nonce         BLOB,
    claim_seq     INTEGER NOT NULL DEFAULT 0,
    state         TEXT    NOT NULL CHECK (state IN ('starting', 'ready', 'not_ready', 'draining', 'gone')),
    reason        TEXT    NOT NULL DEFAULT '',
    memory        INTEGER NOT NULL DEFAULT 0,
    concurrency   INTEGER NOT NULL DEFAULT 0,
    version       TEXT    NOT NULL DEFAULT '',
    host          TEXT,
    pid           INTEGER,
    probe_addr    TEXT,
    platform      TEXT    NOT NULL,
    identity      TEXT,
    generation    INTEGER NOT NULL,
    planned_at    INTEGER,
    registered_at INTEGER,
    last_seen     INTEGER,
    drain_mode    TEXT    CHECK (drain_mode IN ('wait', 'handover')),
    drain_timeout_ms INTEGER,
    drain_at      INTEGER,
    ended_at      INTEGER,
    end           TEXT,
    CHECK ((ended_at IS NOT NULL) = (state = 'gone'))
) WITHOUT ROWID;
CREATE INDEX worker_by_fleet ON worker (fleet);

-- Nonces that a newer start of the same worker made stale.
CREATE TABLE stale_nonce (
    worker TEXT NOT NULL,
    nonce  BLOB NOT NULL,
    PRIMARY KEY (worker, nonce)
) WITHOUT ROWID;

CREATE TABLE fleet (
    name        TEXT    PRIMARY KEY,
    declaration TEXT    NOT NULL,
    generation  INTEGER NOT NULL,
    active      INTEGER NOT NULL,
    replicas    INTEGER,
    changed_at  INTEGER NOT NULL
) WITHOUT ROWID;

-- Kept in the transactions that move tasks, so that counting is free.
CREATE TABLE fleet_count (
    fleet     TEXT    PRIMARY KEY,
    runnable  INTEGER NOT NULL CHECK (runnable >= 0),
    delayed   INTEGER NOT NULL CHECK (delayed >= 0),
    held      INTEGER NOT NULL CHECK (held >= 0),
    running   INTEGER NOT NULL CHECK (running >= 0),
    waiting   INTEGER NOT NULL CHECK (waiting >= 0),
    succeeded INTEGER NOT NULL CHECK (succeeded >= 0),
    failed    INTEGER NOT NULL CHECK (failed >= 0),
    cancelled INTEGER NOT NULL CHECK (cancelled >= 0)
) WITHOUT ROWID;

CREATE TABLE decision (
    fleet     TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    from_n    INTEGER NOT NULL,
    to_n      INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    inputs    TEXT    NOT NULL,
    PRIMARY KEY (fleet, seq)
) WITHOUT ROWID;

CREATE TABLE idempotency (
    scope       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    task_ids    BLOB    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) WITHOUT ROWID;

CREATE TABLE clock (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    service_ms INTEGER NOT NULL,
    next_fence INTEGER NOT NULL,
    next_ord   INTEGER NOT NULL
);
INSERT INTO clock VALUES (1, 0, 1, 1);

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
