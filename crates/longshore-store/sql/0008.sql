-- Batches with counts of their own, searching, and what retention and the erasure of a tenant go by.

CREATE TABLE batch (
    id          BLOB    PRIMARY KEY CHECK (length(id) = 16),
    tenant      TEXT    NOT NULL DEFAULT 'default',
    name        TEXT    NOT NULL,
    labels      TEXT    NOT NULL,
    -- More tasks may come: it does not end before it is closed.
    open        INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    -- Kept in the transactions that move tasks. A task that retention deletes stays counted.
    queued      INTEGER NOT NULL DEFAULT 0 CHECK (queued >= 0),
    running     INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    waiting     INTEGER NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    succeeded   INTEGER NOT NULL DEFAULT 0,
    failed      INTEGER NOT NULL DEFAULT 0,
    cancelled   INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER,
    last_event  INTEGER NOT NULL DEFAULT 0,
    CHECK (finished_at IS NULL OR NOT open AND queued = 0 AND running = 0 AND waiting = 0)
) WITHOUT ROWID;
CREATE INDEX batch_unfinished ON batch (id) WHERE finished_at IS NULL;
CREATE INDEX batch_by_tenant ON batch (tenant) WHERE tenant != 'default';

-- `created`, `closed`, `cancel_requested`, and `finished` once. Progress is told from the counts and not stored.
CREATE TABLE batch_event (
    batch BLOB    NOT NULL,
    seq   INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    kind  TEXT    NOT NULL,
    data  TEXT    NOT NULL,
    PRIMARY KEY (batch, seq)
) WITHOUT ROWID;

-- What retention has dropped of a task that ended, in bits: 1 there is no journal, 2 there is no result, 4 the journal
-- was dropped. A task that ends begins with the bits of what it never had, so that nothing is done for those.
ALTER TABLE task ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
UPDATE task SET dropped = (state != 'succeeded') * 2
    + (NOT EXISTS (SELECT 1 FROM journal WHERE journal.ord = task.ord)
        AND NOT EXISTS (SELECT 1 FROM step WHERE step.ord = task.ord))
    WHERE finished_at IS NOT NULL;
CREATE INDEX task_ended ON task (fleet, dropped, finished_at) WHERE finished_at IS NOT NULL;

-- Few among the many that ended; people look for these first.
CREATE INDEX task_unfinished ON task (id) WHERE finished_at IS NULL;
-- Costs nothing where there are no tenants.
CREATE INDEX task_by_tenant ON task (tenant, id) WHERE tenant != 'default';

-- A message outlives its task: it names the task itself.
ALTER TABLE message ADD COLUMN task BLOB;
UPDATE message SET task = (SELECT id FROM task WHERE task.ord = message.ord);

-- Whose it is, as of the newest task that published into it, and when it was used last.
ALTER TABLE conversation ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';
ALTER TABLE conversation ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
UPDATE conversation SET used_at = coalesce(
    (SELECT max(created_at) FROM task WHERE task.conversation = conversation.id), unixepoch() * 1000);
CREATE INDEX conversation_by_use ON conversation (used_at);
CREATE INDEX conversation_by_tenant ON conversation (tenant) WHERE tenant != 'default';
