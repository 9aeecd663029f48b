-- Tenants: each has a lane in each fleet's queue, with counts of its own; caps, a rate, a pause; deadlines that were told.

-- Those that are declared; others have weight 1 and no cap of their own.
CREATE TABLE tenant (
    name        TEXT    PRIMARY KEY,
    weight      INTEGER NOT NULL CHECK (weight >= 1),
    max_running INTEGER
) WITHOUT ROWID;

-- Kept in the transactions that move tasks, as fleet_count is, so that claims and counts look at no task.
CREATE TABLE lane (
    fleet     TEXT    NOT NULL,
    tenant    TEXT    NOT NULL,
    -- How far it has come in the fleet's virtual time: the lane that has come least far is next.
    pass      INTEGER NOT NULL DEFAULT 0,
    runnable  INTEGER NOT NULL DEFAULT 0 CHECK (runnable >= 0),
    -- Of the runnable: those that run alone.
    suspects  INTEGER NOT NULL DEFAULT 0 CHECK (suspects >= 0 AND suspects <= runnable),
    delayed   INTEGER NOT NULL DEFAULT 0 CHECK (delayed >= 0),
    held      INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    running   INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    waiting   INTEGER NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    succeeded INTEGER NOT NULL DEFAULT 0 CHECK (succeeded >= 0),
    failed    INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
    cancelled INTEGER NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
    PRIMARY KEY (fleet, tenant)
) WITHOUT ROWID;
INSERT INTO lane (fleet, tenant, runnable, delayed, held, running, waiting, succeeded, failed, cancelled)
SELECT fleet, 'default', runnable, delayed, held, running, waiting, succeeded, failed, cancelled FROM fleet_count;
UPDATE lane SET suspects = (SELECT count(*) FROM runnable WHERE runnable.fleet = lane.fleet AND alone);
CREATE INDEX lane_next ON lane (fleet, pass) WHERE runnable > 0;
CREATE INDEX lane_suspect ON lane (fleet, pass) WHERE suspects > 0;
CREATE INDEX lane_by_tenant ON lane (tenant, running);

-- Where the lane stood that was next last; when the bucket of its rate is full, in nanoseconds since 1970.
ALTER TABLE fleet_count ADD COLUMN virtual_time INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fleet_count ADD COLUMN full_at INTEGER NOT NULL DEFAULT 0;

-- The caps of its declaration, so that a claim need not read it.
ALTER TABLE fleet ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fleet ADD COLUMN max_running INTEGER;
ALTER TABLE fleet ADD COLUMN tenant_max_running INTEGER;
ALTER TABLE fleet ADD COLUMN rate_tasks INTEGER;
ALTER TABLE fleet ADD COLUMN rate_per_ms INTEGER;

CREATE TABLE runnable_new (
    fleet  TEXT    NOT NULL,
    tenant TEXT    NOT NULL,
    rank   INTEGER NOT NULL,
    ord    INTEGER NOT NULL,
    alone  INTEGER NOT NULL,
    since  INTEGER NOT NULL,
    PRIMARY KEY (fleet, tenant, rank, ord)
) WITHOUT ROWID;
INSERT INTO runnable_new (fleet, tenant, rank, ord, alone, since)
SELECT runnable.fleet, task.tenant, rank, ord, runnable.alone, since FROM runnable JOIN task USING (ord);
DROP TABLE runnable;
ALTER TABLE runnable_new RENAME TO runnable;
CREATE INDEX runnable_since ON runnable (fleet, since);

-- Its deadline passed while it ran, and its worker was told: it is not to be told again.
ALTER TABLE task ADD COLUMN expired INTEGER NOT NULL DEFAULT 0;
DROP INDEX task_by_deadline;
CREATE INDEX task_by_deadline ON task (deadline_at)
    WHERE deadline_at IS NOT NULL AND finished_at IS NULL AND expired = 0;
