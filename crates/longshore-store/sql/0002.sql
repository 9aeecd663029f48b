-- The journal of LLM calls, steps, and tasks that wait for a person after an interruption.

-- SQLite cannot change a CHECK: the table is made anew, with `ask` among the words of `on_interrupt`.
CREATE TABLE task_new (
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
    on_interrupt    TEXT    NOT NULL CHECK (on_interrupt IN ('resume', 'fail', 'ask')),
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
INSERT INTO task_new SELECT * FROM task;
DROP TABLE task;
ALTER TABLE task_new RENAME TO task;
CREATE INDEX task_by_conversation ON task (conversation, id) WHERE conversation IS NOT NULL;
-- The rare endings, which people look for among the many.
CREATE INDEX task_failed ON task (id) WHERE state = 'failed';
CREATE INDEX task_cancelled ON task (id) WHERE state = 'cancelled';

-- Which start of which gateway is the newest: an intent of any other has lost its owner.
CREATE TABLE gateway (
    replica TEXT PRIMARY KEY,
    nonce   BLOB NOT NULL CHECK (length(nonce) = 16)
) WITHOUT ROWID;

-- One row per task that made a call. `counter` orders what happens to its asks.
CREATE TABLE journal (
    ord          INTEGER PRIMARY KEY,
    generation   INTEGER NOT NULL DEFAULT 0,
    counter      INTEGER NOT NULL DEFAULT 0,
    -- Calls that were passed through without being journaled (models, count_tokens, other paths).
    passed       INTEGER NOT NULL DEFAULT 0,
    -- Answers bought though an earlier attempt had one at the same place, over all attempts.
    bought_again INTEGER NOT NULL DEFAULT 0
);

-- Contents by their hash: pieces of requests, and answers. A piece that comes again is stored once.
CREATE TABLE journal_blob (
    ord   INTEGER NOT NULL,
    hash  BLOB    NOT NULL CHECK (length(hash) = 16),
    -- 0: as it is; 1: deflate.
    codec INTEGER NOT NULL CHECK (codec IN (0, 1)),
    size  INTEGER NOT NULL,
    data  BLOB    NOT NULL,
    PRIMARY KEY (ord, hash)
);

-- The list of a request, such as its messages, as a chain: `hash` stands for everything up to here. A history that grows
-- by two messages adds two links, however long it is.
CREATE TABLE journal_link (
    ord  INTEGER NOT NULL,
    hash BLOB    NOT NULL CHECK (length(hash) = 16),
    prev BLOB,
    blob BLOB    NOT NULL,
    PRIMARY KEY (ord, hash)
) WITHOUT ROWID;

-- A canonical request: its head without the list, and the chain's last link.
CREATE TABLE journal_request (
    ord    INTEGER NOT NULL,
    digest BLOB    NOT NULL CHECK (length(digest) = 32),
    head   BLOB    NOT NULL,
    field  TEXT,
    link   BLOB,
    PRIMARY KEY (ord, digest)
) WITHOUT ROWID;

-- A call: an intent while it has an owner, then an answer. Neither: it was given up, but may have been billed.
CREATE TABLE journal_entry (
    ord          INTEGER NOT NULL,
    generation   INTEGER NOT NULL,
    digest       BLOB    NOT NULL CHECK (length(digest) = 32),
    occurrence   INTEGER NOT NULL,
    -- The journal's counter when the intent was written: the order for people.
    begun        INTEGER NOT NULL,
    -- The newest fence that asked for it.
    fence        INTEGER NOT NULL,
    owner        BLOB,
    maybe_billed INTEGER NOT NULL DEFAULT 0,
    inherited    INTEGER NOT NULL DEFAULT 0,
    provider     TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    model        TEXT,
    begun_at     INTEGER NOT NULL,
    answered_at  INTEGER,
    status       INTEGER,
    headers      TEXT,
    body         BLOB,
    input        INTEGER,
    cached       INTEGER,
    output       INTEGER,
    cost_nano    INTEGER,
    currency     TEXT,
    waited_ms    INTEGER,
    first_ms     INTEGER,
    total_ms     INTEGER,
    PRIMARY KEY (ord, generation, digest, occurrence),
    CHECK (owner IS NULL OR status IS NULL),
    CHECK (owner IS NOT NULL OR status IS NOT NULL OR maybe_billed > 0),
    CHECK ((status IS NULL) = (body IS NULL) AND (status IS NULL) = (answered_at IS NULL))
) WITHOUT ROWID;

-- A request of an agent: which call it led to and how it ended. `call` is the relay's number for it.
CREATE TABLE journal_ask (
    ord        INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    call       BLOB    NOT NULL CHECK (length(call) = 16),
    generation INTEGER NOT NULL,
    digest     BLOB    NOT NULL,
    occurrence INTEGER NOT NULL,
    begun      INTEGER NOT NULL,
    ended      INTEGER NOT NULL DEFAULT 0,
    state      TEXT    NOT NULL CHECK (state IN ('open', 'delivered', 'undelivered', 'failed')),
    -- It made the call itself; else the answer was there, or under way.
    live       INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (ord, fence, call)
) WITHOUT ROWID;
CREATE INDEX journal_ask_by_request ON journal_ask (ord, fence, digest);

-- A step belongs to its task and outlives generations.
CREATE TABLE step (
    ord      INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    -- How often it was begun; above 1 without a result: it may have run, and the one before did not tell.
    begun    INTEGER NOT NULL,
    begun_at INTEGER NOT NULL,
    ended_at INTEGER,
    result   TEXT,
    PRIMARY KEY (ord, name),
    CHECK ((ended_at IS NULL) = (result IS NULL))
) WITHOUT ROWID;

-- What was bought and what was saved, per fleet, provider and model, added up for ever.
CREATE TABLE llm_usage (
    fleet        TEXT    NOT NULL,
    provider     TEXT    NOT NULL,
    model        TEXT    NOT NULL,
    currency     TEXT    NOT NULL,
    live         INTEGER NOT NULL,
    replayed     INTEGER NOT NULL,
    maybe_billed INTEGER NOT NULL,
    input        INTEGER NOT NULL,
    cached       INTEGER NOT NULL,
    output       INTEGER NOT NULL,
    cost_nano    INTEGER NOT NULL,
    saved_tokens INTEGER NOT NULL,
    saved_nano   INTEGER NOT NULL,
    PRIMARY KEY (fleet, provider, model, currency)
) WITHOUT ROWID;

-- How attempts after the first made use of what was there, per fleet.
CREATE TABLE llm_replay (
    fleet        TEXT    PRIMARY KEY,
    replayed     INTEGER NOT NULL,
    bought_again INTEGER NOT NULL,
    diverged     INTEGER NOT NULL
) WITHOUT ROWID;
