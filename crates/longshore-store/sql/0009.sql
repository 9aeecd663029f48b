-- Releases of a fleet, and rollouts from one to another. What was called a generation of a declaration is a release.
ALTER TABLE fleet RENAME COLUMN generation TO release;
ALTER TABLE worker RENAME COLUMN generation TO release;
-- That its worker ran; NULL: not known.
ALTER TABLE attempt ADD COLUMN release INTEGER;

-- The release that it must finish on, where its fleet says so.
ALTER TABLE task ADD COLUMN pinned INTEGER;
CREATE INDEX task_pinned ON task (fleet, pinned) WHERE pinned IS NOT NULL AND finished_at IS NULL;
ALTER TABLE fleet ADD COLUMN pin_release INTEGER NOT NULL DEFAULT 0;
-- Workers of this release take nothing but tasks that must finish on it.
ALTER TABLE fleet ADD COLUMN retiring INTEGER;

-- What workers are told when they start.
CREATE TABLE release (
    fleet       TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    declaration TEXT    NOT NULL,
    built_from  TEXT,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (fleet, number)
) WITHOUT ROWID;
INSERT INTO release (fleet, number, declaration, created_at) SELECT name, release, declaration, changed_at FROM fleet;

-- What attempts on a release have come to; those that were interrupted are not counted.
CREATE TABLE outcome (
    fleet        TEXT    NOT NULL,
    release      INTEGER NOT NULL,
    succeeded    INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    succeeded_ms INTEGER NOT NULL,
    cost_nano    INTEGER NOT NULL,
    PRIMARY KEY (fleet, release)
) WITHOUT ROWID;

-- `plan` is saved before each step that it says. `version` grows with each write.
CREATE TABLE rollout (
    fleet       TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    plan        TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    PRIMARY KEY (fleet, number)
) WITHOUT ROWID;
-- One at a time.
CREATE UNIQUE INDEX rollout_open ON rollout (fleet) WHERE ended_at IS NULL;
