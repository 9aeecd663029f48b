-- Schedules, and webhooks with the messages that they are owed.

CREATE TABLE schedule (
    name        TEXT    PRIMARY KEY,
    declaration TEXT    NOT NULL,
    -- Grows with each change of the declaration, so that no plan made of an older one is carried out.
    generation  INTEGER NOT NULL,
    active      INTEGER NOT NULL,
    -- An operator's word; null: as declared.
    paused      INTEGER,
    -- Ticks up to this time are dealt with.
    cursor      INTEGER NOT NULL,
    -- The newest task, and the tick that it was for; a task that somebody asked for has none.
    last_task   BLOB,
    last_tick   INTEGER,
    fired       INTEGER NOT NULL DEFAULT 0,
    missed      INTEGER NOT NULL DEFAULT 0,
    overlapped  INTEGER NOT NULL DEFAULT 0,
    refused     INTEGER NOT NULL DEFAULT 0,
    changed_at  INTEGER NOT NULL
) WITHOUT ROWID;

-- What happened to a schedule; the newest of each are kept.
CREATE TABLE schedule_event (
    schedule TEXT    NOT NULL,
    seq      INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    data     TEXT    NOT NULL,
    PRIMARY KEY (schedule, seq)
) WITHOUT ROWID;

CREATE TABLE webhook (
    name        TEXT    PRIMARY KEY,
    declaration TEXT    NOT NULL,
    active      INTEGER NOT NULL,
    -- What it is told about, as `,a,b,`: names hold no comma. Fleets empty: all.
    fleets      TEXT    NOT NULL,
    states      TEXT    NOT NULL,
    -- Why nothing is sent to it any more.
    disabled    TEXT,
    disabled_at INTEGER,
    changed_at  INTEGER NOT NULL,
    CHECK ((disabled IS NULL) = (disabled_at IS NULL))
) WITHOUT ROWID;

-- One message to one webhook about the end of one task, written with that end.
CREATE TABLE delivery (
    seq      INTEGER PRIMARY KEY,
    webhook  TEXT    NOT NULL,
    task     BLOB    NOT NULL CHECK (length(task) = 16),
    fleet    TEXT    NOT NULL,
    -- What the task ended as, and when.
    ended_as TEXT    NOT NULL CHECK (ended_as IN ('succeeded', 'failed', 'cancelled')),
    at       INTEGER NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    -- The time that tries are given up by is counted from here.
    since    INTEGER NOT NULL,
    next_at  INTEGER,
    tries    INTEGER NOT NULL DEFAULT 0,
    -- Of the newest try.
    tried_at INTEGER,
    status   INTEGER,
    error    TEXT,
    ended_at INTEGER,
    UNIQUE (task, webhook),
    CHECK ((next_at IS NOT NULL) = (state = 'pending')),
    CHECK ((ended_at IS NULL) = (state = 'pending'))
);
CREATE INDEX delivery_due ON delivery (webhook, next_at, seq) WHERE state = 'pending';
CREATE INDEX delivery_by_webhook ON delivery (webhook, seq);
CREATE INDEX delivery_by_state ON delivery (webhook, state, seq);
CREATE INDEX delivery_ended ON delivery (ended_at) WHERE ended_at IS NOT NULL;
