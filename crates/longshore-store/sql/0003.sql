-- Tenants, batches, children, deadlines and waiting: the columns that the whole queue needs.
--
-- The words of `hold` and `on_interrupt` are checked where they are read, so that a new one needs no new table.

CREATE TABLE task_new (
    ord             INTEGER PRIMARY KEY,
    id              BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    fleet           TEXT    NOT NULL,
    state           TEXT    NOT NULL
        CHECK (state IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')),
    -- Why it is queued; nothing else has one.
    hold            TEXT,
    priority        INTEGER NOT NULL,
    run_at          INTEGER,
    due_at          INTEGER,
    timeout_ms      INTEGER NOT NULL,
    max_attempts    INTEGER NOT NULL,
    on_interrupt    TEXT    NOT NULL,
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
    -- Whose it is: what fairness and caps are counted by.
    tenant          TEXT    NOT NULL DEFAULT 'default',
    batch           BLOB,
    parent          BLOB,
    -- When it fails, wherever it stands: its own time-out, not that of an attempt.
    deadline_at     INTEGER,
    -- What it waits for, and until when; only while it waits.
    wait_for        TEXT,
    wait_until      INTEGER,
    CHECK ((hold IS NOT NULL) = (state = 'queued')),
    CHECK ((due_at IS NOT NULL) = (hold IS NOT NULL AND hold IN ('scheduled', 'backoff'))),
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))),
    CHECK ((conversation IS NULL) = (conv_seq IS NULL)),
    CHECK (hold IS NOT 'conversation' OR conversation IS NOT NULL)
);
INSERT INTO task_new (ord, id, fleet, state, hold, priority, run_at, due_at, timeout_ms, max_attempts, on_interrupt,
    backoff_base_ms, backoff_cap_ms, labels, conversation, conv_seq, publish_input, retry_of, alone, failed_attempts,
    attempts, interrupted, strikes, cancel_requested, cancel_reason, failure, created_at, started_at, finished_at,
    last_event)
SELECT ord, id, fleet, state, hold, priority, run_at, due_at, timeout_ms, max_attempts, on_interrupt, backoff_base_ms,
    backoff_cap_ms, labels, conversation, conv_seq, publish_input, retry_of, alone, failed_attempts, attempts,
    interrupted, strikes, cancel_requested, cancel_reason, failure, created_at, started_at, finished_at, last_event
    FROM task;
DROP TABLE task;
ALTER TABLE task_new RENAME TO task;
CREATE INDEX task_by_conversation ON task (conversation, id) WHERE conversation IS NOT NULL;
-- The rare endings, which people look for among the many.
CREATE INDEX task_failed ON task (id) WHERE state = 'failed';
CREATE INDEX task_cancelled ON task (id) WHERE state = 'cancelled';
CREATE INDEX task_by_batch ON task (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX task_by_parent ON task (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX task_by_deadline ON task (deadline_at) WHERE deadline_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX task_by_wait ON task (wait_until) WHERE wait_until IS NOT NULL;
