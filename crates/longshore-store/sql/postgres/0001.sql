-- The shared store, version 1. `@name` is a name in longshore's own schema. Forward only: change it by a new file, and
-- only in ways that a replica of the version before can live with.
--
-- `live` is the one hot table: a row for each task that is not finished, nothing else. `task` (what was submitted), `done`
-- (how it ended) and `event` are only ever added to, and go by whole partitions. Task ids are UUIDv7: they sort by time of
-- submission, so a range of ids is a range of time. Times are milliseconds since 1970, or of service time where the name
-- says so.

CREATE TABLE @task (
    id              uuid     NOT NULL,
    fleet           text     NOT NULL,
    tenant          text     NOT NULL,
    priority        integer  NOT NULL,
    run_at          bigint,
    deadline_at     bigint,
    timeout_ms      bigint   NOT NULL,
    max_attempts    bigint   NOT NULL,
    on_interrupt    text     NOT NULL,
    backoff_base_ms bigint   NOT NULL,
    backoff_cap_ms  bigint   NOT NULL,
    labels          text     NOT NULL,
    conversation    text,
    conv_seq        bigint,
    publish_input   boolean  NOT NULL,
    retry_of        uuid,
    batch           uuid,
    parent          uuid,
    created_at      bigint   NOT NULL,
    input           text     NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX task_by_conversation ON @task (conversation, id) WHERE conversation IS NOT NULL;
CREATE INDEX task_by_batch ON @task (batch, id) WHERE batch IS NOT NULL;
-- Costs nothing where there are no tenants.
CREATE INDEX task_by_tenant ON @task (tenant, id) WHERE tenant <> 'default';
CREATE INDEX task_by_parent ON @task (parent, id) WHERE parent IS NOT NULL;

-- What changes of a task until it is finished. Its index of what could run now holds nothing else, so 100,000 tasks that
-- are held cost a claim nothing. Rows are rewritten often: room for that in each page, and vacuumed hard.
CREATE TABLE @live (
    id              uuid     NOT NULL PRIMARY KEY,
    fleet           text     NOT NULL,
    tenant          text     NOT NULL,
    state           text     NOT NULL CHECK (state IN ('queued', 'running', 'waiting')),
    hold            text,
    -- The negated priority, so that an index is the order of claims.
    rank            bigint   NOT NULL,
    run_at          bigint,
    due_at          bigint,
    deadline_at     bigint,
    -- Since when it could run.
    since           bigint,
    timeout_ms      bigint   NOT NULL,
    max_attempts    bigint   NOT NULL,
    on_interrupt    text     NOT NULL,
    backoff_base_ms bigint   NOT NULL,
    backoff_cap_ms  bigint   NOT NULL,
    conversation    text,
    conv_seq        bigint,
    publish_input   boolean  NOT NULL,
    batch           uuid,
    parent          uuid,
    alone           boolean  NOT NULL,
    failed_attempts bigint   NOT NULL,
    attempts        bigint   NOT NULL,
    interrupted     bigint   NOT NULL,
    strikes         bigint   NOT NULL,
    cancel_requested boolean NOT NULL,
    cancel_reason   text,
    failure         text,
    -- What it waits for, and until when.
    wait_for        text,
    wait_until      bigint,
    -- It has asked questions.
    asked           boolean  NOT NULL DEFAULT false,
    created_at      bigint   NOT NULL,
    started_at      bigint,
    last_event      bigint   NOT NULL,
    -- The lease, while it runs.
    fence           bigint,
    worker          text,
    claim_seq       bigint,
    attempt_at      bigint,
    -- Service time; from the worker's first heartbeat after the claim on, the worker's row tells.
    expires_ms      bigint,
    -- Number of the newest event of the attempt's agent; above 0: it made progress.
    last_n          bigint   NOT NULL DEFAULT 0,
    -- Its deadline passed while it ran, and its worker was told: it is not to be told again.
    expired         boolean  NOT NULL DEFAULT false,
    CHECK ((hold IS NOT NULL) = (state = 'queued')),
    CHECK ((fence IS NOT NULL) = (state = 'running')),
    CHECK ((wait_for IS NOT NULL) = (state = 'waiting')),
    CHECK (wait_until IS NULL OR wait_for IS NOT NULL),
    CHECK ((due_at IS NOT NULL) = (hold IS NOT NULL AND hold IN ('scheduled', 'backoff')))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.2);
CREATE INDEX live_runnable ON @live (fleet, tenant, rank, id) WHERE hold = 'ready';
-- Tasks that are suspected of killing workers: few, or none.
CREATE INDEX live_suspect ON @live (fleet) WHERE alone;
CREATE INDEX live_due ON @live (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX live_by_worker ON @live (worker, fence) WHERE worker IS NOT NULL;
CREATE INDEX live_by_conversation ON @live (conversation, conv_seq) WHERE conversation IS NOT NULL;
CREATE INDEX live_by_deadline ON @live (deadline_at) WHERE deadline_at IS NOT NULL AND NOT expired;
CREATE INDEX live_by_wait ON @live (wait_until) WHERE wait_until IS NOT NULL;
CREATE INDEX live_by_parent ON @live (parent, id) WHERE parent IS NOT NULL;
-- Who locks tasks looks here for their parents: where there are no children it is empty. Said in other words than above, so
-- that the index above is never gone through for it, however small it was when a plan was made.
CREATE INDEX live_child ON @live (id) INCLUDE (parent) WHERE (parent IS NULL) IS FALSE;
CREATE SEQUENCE @fence;

CREATE TABLE @done (
    id              uuid     NOT NULL,
    fleet           text     NOT NULL,
    tenant          text     NOT NULL,
    state           text     NOT NULL CHECK (state IN ('succeeded', 'failed', 'cancelled')),
    failed_attempts bigint   NOT NULL,
    attempts        bigint   NOT NULL,
    interrupted     bigint   NOT NULL,
    strikes         bigint   NOT NULL,
    cancel_requested boolean NOT NULL,
    failure         text,
    started_at      bigint,
    finished_at     bigint   NOT NULL,
    last_event      bigint   NOT NULL,
    result          text,
    -- What retention has dropped, in bits; see longshore_core::retention::Dropped.
    dropped         bigint   NOT NULL DEFAULT 0,
    -- As in `task`: retention asks them whether somebody still needs this one.
    batch           uuid,
    parent          uuid,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
-- The rare endings, which people look for among the many.
CREATE INDEX done_failed ON @done (id) WHERE state = 'failed';
CREATE INDEX done_cancelled ON @done (id) WHERE state = 'cancelled';
-- What retention goes by: it finds what may go without looking at what stays.
CREATE INDEX done_ended ON @done (fleet, dropped, finished_at);

-- A task's log. What happens at one instant is one row: `more` is a list of [kind, data] with the numbers after `seq`.
CREATE TABLE @event (
    task            uuid     NOT NULL,
    seq             bigint   NOT NULL,
    at              bigint   NOT NULL,
    kind            text     NOT NULL,
    data            text     NOT NULL,
    more            text,
    -- Of the attempt that it begins or ends.
    attempt         bigint,
    fence           bigint,
    -- Who wrote the ending: a worker that repeats its own is told yes again.
    by_worker       boolean,
    PRIMARY KEY (task, seq)
) PARTITION BY RANGE (task);

-- A child by its name among the children of its parent, `task`; `seq` is the order in which they were submitted.
CREATE TABLE @child (
    task            uuid     NOT NULL,
    name            text     NOT NULL,
    seq             bigint   NOT NULL,
    child           uuid     NOT NULL,
    -- It goes on when its parent is cancelled.
    detach          boolean  NOT NULL,
    PRIMARY KEY (task, name)
) PARTITION BY RANGE (task);
CREATE INDEX child_by_id ON @child (task, child);

-- Cancelled tasks whose children are still to be cancelled: some at a time.
CREATE TABLE @orphaned (parent uuid PRIMARY KEY);

-- A question belongs to its task and outlives generations, as a step does. Whether it is open follows from the times.
CREATE TABLE @question (
    task            uuid     NOT NULL,
    name            text     NOT NULL,
    question        text     NOT NULL,
    schema          text,
    asked_at        bigint   NOT NULL,
    expires_at      bigint,
    on_expiry       text     NOT NULL CHECK (on_expiry IN ('fail', 'resume')),
    answered_at     bigint,
    answer          text,
    PRIMARY KEY (task, name),
    CHECK ((answered_at IS NULL) = (answer IS NULL))
) PARTITION BY RANGE (task);

CREATE TABLE @conversation (
    id              text     PRIMARY KEY,
    next_seq        bigint   NOT NULL,
    messages        bigint   NOT NULL,
    -- Whose it is, as of the newest task that published into it, and when it was used last.
    tenant          text     NOT NULL DEFAULT 'default',
    used_at         bigint   NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX conversation_by_use ON @conversation (used_at);
CREATE INDEX conversation_by_tenant ON @conversation (tenant) WHERE tenant <> 'default';

CREATE TABLE @message (
    conversation    text     NOT NULL,
    seq             bigint   NOT NULL,
    task            uuid     NOT NULL,
    at              bigint   NOT NULL,
    data            text     NOT NULL,
    PRIMARY KEY (conversation, seq)
);

-- What an attempt appends to its conversation, until it succeeds.
CREATE TABLE @staged_message (
    task            uuid     NOT NULL,
    fence           bigint   NOT NULL,
    n               bigint   NOT NULL,
    data            text     NOT NULL,
    PRIMARY KEY (task, fence, n)
);

-- Tasks that were submitted together. Counts are kept in the transactions that move tasks, one update for each
-- transaction; a task that retention deletes stays counted.
CREATE TABLE @batch (
    id              uuid     NOT NULL PRIMARY KEY,
    tenant          text     NOT NULL,
    name            text     NOT NULL,
    labels          text     NOT NULL,
    -- More tasks may come: it does not end before it is closed.
    open            boolean  NOT NULL,
    cancel_requested boolean NOT NULL DEFAULT false,
    queued          bigint   NOT NULL DEFAULT 0 CHECK (queued >= 0),
    running         bigint   NOT NULL DEFAULT 0 CHECK (running >= 0),
    waiting         bigint   NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    succeeded       bigint   NOT NULL DEFAULT 0,
    failed          bigint   NOT NULL DEFAULT 0,
    cancelled       bigint   NOT NULL DEFAULT 0,
    created_at      bigint   NOT NULL,
    finished_at     bigint,
    last_event      bigint   NOT NULL,
    CHECK (finished_at IS NULL OR (NOT open AND queued = 0 AND running = 0 AND waiting = 0))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX batch_unfinished ON @batch (id) WHERE finished_at IS NULL;
CREATE INDEX batch_by_tenant ON @batch (tenant) WHERE tenant <> 'default';

-- `created`, `closed`, `cancel_requested`, and `finished` once. Progress is told from the counts and not stored.
CREATE TABLE @batch_event (
    batch           uuid     NOT NULL,
    seq             bigint   NOT NULL,
    at              bigint   NOT NULL,
    kind            text     NOT NULL,
    data            text     NOT NULL,
    PRIMARY KEY (batch, seq)
);

CREATE TABLE @worker (
    id              text     PRIMARY KEY,
    fleet           text     NOT NULL,
    nonce           uuid,
    claim_seq       bigint   NOT NULL DEFAULT 0,
    state           text     NOT NULL CHECK (state IN ('starting', 'ready', 'not_ready', 'draining', 'gone')),
    reason          text     NOT NULL DEFAULT '',
    memory          bigint   NOT NULL DEFAULT 0,
    concurrency     bigint   NOT NULL DEFAULT 0,
    version         text     NOT NULL DEFAULT '',
    host            text,
    pid             bigint,
    probe_addr      text,
    platform        text     NOT NULL,
    identity        text,
    generation      bigint   NOT NULL,
    planned_at      bigint,
    registered_at   bigint,
    last_seen       bigint,
    drain_mode      text,
    drain_timeout_ms bigint,
    drain_at        bigint,
    ended_at        bigint,
    "end"           text,
    -- Leases of claims up to this one live until then (service time): one row is renewed, not one for each task.
    renewed_claim   bigint   NOT NULL DEFAULT 0,
    renewed_until   bigint   NOT NULL DEFAULT 0,
    -- No lease of a later claim expires before this; none: there is none that its last heartbeat did not know of.
    unrenewed_ms    bigint,
    -- It has no lease with a lower fence, as of its last heartbeat: what is dead in the index before is not stepped over.
    held_from       bigint   NOT NULL DEFAULT 0,
    CHECK ((ended_at IS NOT NULL) = (state = 'gone'))
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX worker_by_fleet ON @worker (fleet);

-- Nonces that a newer start of the same worker made stale.
CREATE TABLE @stale_nonce (
    worker          text     NOT NULL,
    nonce           uuid     NOT NULL,
    PRIMARY KEY (worker, nonce)
);

CREATE TABLE @fleet (
    name            text     PRIMARY KEY,
    declaration     text     NOT NULL,
    generation      bigint   NOT NULL,
    active          boolean  NOT NULL,
    replicas        bigint,
    changed_at      bigint   NOT NULL
);

-- Kept in the transactions that move tasks, so that counting is free. Several rows each, so that transactions do not wait
-- for one another; their sum counts.
CREATE TABLE @fleet_count (
    fleet           text     NOT NULL,
    slot            smallint NOT NULL,
    runnable        bigint   NOT NULL,
    delayed         bigint   NOT NULL,
    held            bigint   NOT NULL,
    running         bigint   NOT NULL,
    waiting         bigint   NOT NULL,
    succeeded       bigint   NOT NULL,
    failed          bigint   NOT NULL,
    cancelled       bigint   NOT NULL,
    PRIMARY KEY (fleet, slot)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);

-- A fleet's counts by tenant, but for the default one: its numbers are what a fleet has beyond these.
CREATE TABLE @lane (
    fleet           text     NOT NULL,
    tenant          text     NOT NULL,
    -- How far it has come in the fleet's virtual time: the lane that has come least far is next.
    pass            bigint   NOT NULL,
    runnable        bigint   NOT NULL,
    delayed         bigint   NOT NULL,
    held            bigint   NOT NULL,
    running         bigint   NOT NULL,
    waiting         bigint   NOT NULL,
    succeeded       bigint   NOT NULL,
    failed          bigint   NOT NULL,
    cancelled       bigint   NOT NULL,
    PRIMARY KEY (fleet, tenant)
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lane_by_tenant ON @lane (tenant);

-- What holds a fleet's tasks back, and where its virtual time stands. A claim locks it where a cap, a rate or several
-- tenants make claims wait for one another; else it only reads it.
CREATE TABLE @gate (
    fleet           text     PRIMARY KEY,
    paused          boolean  NOT NULL DEFAULT false,
    -- The caps of its declaration.
    max_running     bigint,
    tenant_max_running bigint,
    rate_tasks      bigint,
    rate_per_ms     bigint,
    -- Where the lane stood that was next last; where the default tenant stands; when the bucket of its rate is full, in
    -- nanoseconds since 1970.
    virtual_time    bigint   NOT NULL DEFAULT 0,
    pass            bigint   NOT NULL DEFAULT 0,
    full_at         bigint   NOT NULL DEFAULT 0
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);

-- Those that are declared; others have weight 1 and no cap of their own.
CREATE TABLE @tenant (
    name            text     PRIMARY KEY,
    weight          bigint   NOT NULL CHECK (weight >= 1),
    max_running     bigint
);
-- Locked by claims while any tenant has a cap over all fleets.
CREATE TABLE @cap (one integer PRIMARY KEY CHECK (one = 1));
INSERT INTO @cap VALUES (1);

CREATE TABLE @decision (
    fleet           text     NOT NULL,
    seq             bigint   NOT NULL,
    at              bigint   NOT NULL,
    from_n          bigint   NOT NULL,
    to_n            bigint   NOT NULL,
    kind            text     NOT NULL,
    reason          text     NOT NULL,
    inputs          text     NOT NULL,
    PRIMARY KEY (fleet, seq)
);

CREATE TABLE @idempotency (
    scope           text     NOT NULL,
    key             text     NOT NULL,
    fingerprint     bytea    NOT NULL,
    -- Sixteen bytes each; none while its submission is under way.
    task_ids        bytea    NOT NULL,
    at              bigint   NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_at ON @idempotency (at);

CREATE TABLE @clock (
    one             integer  PRIMARY KEY CHECK (one = 1),
    service_ms      bigint   NOT NULL
) WITH (fillfactor = 20);
INSERT INTO @clock VALUES (1, 0);

CREATE TABLE @meta (key text PRIMARY KEY, value text NOT NULL);

-- The one replica that runs the controllers. `epoch` grows with each new leader: a plan with an older one is refused.
CREATE TABLE @leader (
    one             integer  PRIMARY KEY CHECK (one = 1),
    holder          uuid,
    epoch           bigint   NOT NULL,
    -- The database's clock.
    until           timestamptz NOT NULL
);
INSERT INTO @leader VALUES (1, NULL, 0, '-infinity');

CREATE TABLE @replica (
    id              uuid     PRIMARY KEY,
    name            text     NOT NULL,
    roles           text     NOT NULL,
    address         text     NOT NULL,
    version         text     NOT NULL,
    started_at      timestamptz NOT NULL,
    seen_at         timestamptz NOT NULL
);

-- Which start of which gateway is the newest, and when it was last seen (service time): an intent of any other, or of one
-- that is silent, has lost its owner.
CREATE TABLE @gateway (
    replica         text     PRIMARY KEY,
    nonce           uuid     NOT NULL,
    seen_ms         bigint   NOT NULL
);
CREATE INDEX gateway_by_nonce ON @gateway (nonce);

-- One row per task that made a call. `counter` orders what happens to its asks.
CREATE TABLE @journal (
    task            uuid     NOT NULL,
    generation      bigint   NOT NULL DEFAULT 0,
    counter         bigint   NOT NULL DEFAULT 0,
    passed          bigint   NOT NULL DEFAULT 0,
    bought_again    bigint   NOT NULL DEFAULT 0,
    PRIMARY KEY (task)
) PARTITION BY RANGE (task);

-- Contents by their hash: pieces of requests, and answers. A piece that comes again is stored once.
CREATE TABLE @journal_blob (
    task            uuid     NOT NULL,
    hash            bytea    NOT NULL,
    deflated        boolean  NOT NULL,
    size            bigint   NOT NULL,
    data            bytea    NOT NULL,
    PRIMARY KEY (task, hash)
) PARTITION BY RANGE (task);

-- The list of a request, such as its messages, as a chain: `hash` stands for everything up to here.
CREATE TABLE @journal_link (
    task            uuid     NOT NULL,
    hash            bytea    NOT NULL,
    prev            bytea,
    blob            bytea    NOT NULL,
    PRIMARY KEY (task, hash)
) PARTITION BY RANGE (task);

CREATE TABLE @journal_request (
    task            uuid     NOT NULL,
    digest          bytea    NOT NULL,
    head            bytea    NOT NULL,
    field           text,
    link            bytea,
    PRIMARY KEY (task, digest)
) PARTITION BY RANGE (task);

-- A call: an intent while it has an owner, then an answer. Neither: it was given up, but may have been billed.
CREATE TABLE @journal_entry (
    task            uuid     NOT NULL,
    generation      bigint   NOT NULL,
    digest          bytea    NOT NULL,
    occurrence      bigint   NOT NULL,
    begun           bigint   NOT NULL,
    fence           bigint   NOT NULL,
    owner           uuid,
    maybe_billed    bigint   NOT NULL DEFAULT 0,
    inherited       boolean  NOT NULL DEFAULT false,
    provider        text     NOT NULL,
    path            text     NOT NULL,
    model           text,
    begun_at        bigint   NOT NULL,
    answered_at     bigint,
    status          bigint,
    headers         text,
    body            bytea,
    input           bigint,
    cached          bigint,
    output          bigint,
    cost_nano       bigint,
    currency        text,
    waited_ms       bigint,
    first_ms        bigint,
    total_ms        bigint,
    PRIMARY KEY (task, generation, digest, occurrence),
    CHECK (owner IS NULL OR status IS NULL),
    CHECK (owner IS NOT NULL OR status IS NOT NULL OR maybe_billed > 0)
) PARTITION BY RANGE (task);

CREATE TABLE @journal_ask (
    task            uuid     NOT NULL,
    fence           bigint   NOT NULL,
    call            uuid     NOT NULL,
    generation      bigint   NOT NULL,
    digest          bytea    NOT NULL,
    occurrence      bigint   NOT NULL,
    begun           bigint   NOT NULL,
    ended           bigint   NOT NULL DEFAULT 0,
    state           text     NOT NULL CHECK (state IN ('open', 'delivered', 'undelivered', 'failed')),
    live            boolean  NOT NULL,
    at              bigint   NOT NULL,
    PRIMARY KEY (task, fence, call)
) PARTITION BY RANGE (task);

-- A step belongs to its task and outlives generations.
CREATE TABLE @step (
    task            uuid     NOT NULL,
    name            text     NOT NULL,
    begun           bigint   NOT NULL,
    begun_at        bigint   NOT NULL,
    ended_at        bigint,
    result          text,
    PRIMARY KEY (task, name)
) PARTITION BY RANGE (task);

-- What was bought and saved, per fleet, provider and model, added up for ever; several rows each, as for fleet_count.
CREATE TABLE @llm_usage (
    fleet           text     NOT NULL,
    provider        text     NOT NULL,
    model           text     NOT NULL,
    currency        text     NOT NULL,
    slot            smallint NOT NULL,
    live            bigint   NOT NULL,
    replayed        bigint   NOT NULL,
    maybe_billed    bigint   NOT NULL,
    input           bigint   NOT NULL,
    cached          bigint   NOT NULL,
    output          bigint   NOT NULL,
    cost_nano       bigint   NOT NULL,
    saved_tokens    bigint   NOT NULL,
    saved_nano      bigint   NOT NULL,
    PRIMARY KEY (fleet, provider, model, currency, slot)
) WITH (fillfactor = 40);

CREATE TABLE @llm_replay (
    fleet           text     NOT NULL,
    slot            smallint NOT NULL,
    replayed        bigint   NOT NULL,
    bought_again    bigint   NOT NULL,
    diverged        bigint   NOT NULL,
    PRIMARY KEY (fleet, slot)
) WITH (fillfactor = 40);

-- API keys. The key itself is nowhere: `hash` is its SHA-256, which is enough for 256 bits of chance.
CREATE TABLE @api_key (
    id              uuid     PRIMARY KEY,
    hash            bytea    NOT NULL UNIQUE CHECK (length(hash) = 32),
    name            text     NOT NULL,
    -- Its last letters, by which people tell keys apart.
    hint            text     NOT NULL,
    -- Words with commas between them.
    verbs           text     NOT NULL,
    -- A JSON array of names; empty: all fleets.
    fleets          text     NOT NULL,
    -- NULL: all tenants.
    tenant          text,
    created_at      bigint   NOT NULL,
    expires_at      bigint,
    revoked_at      bigint,
    -- To the minute.
    used_at         bigint
);

CREATE TABLE @schedule (
    name            text     PRIMARY KEY,
    declaration     text     NOT NULL,
    -- Grows with each change of the declaration, so that no plan made of an older one is carried out.
    generation      bigint   NOT NULL,
    active          boolean  NOT NULL,
    -- An operator's word; null: as declared.
    paused          boolean,
    -- Ticks up to this time are dealt with.
    cursor          bigint   NOT NULL,
    -- The newest task, and the tick that it was for; a task that somebody asked for has none.
    last_task       uuid,
    last_tick       bigint,
    fired           bigint   NOT NULL DEFAULT 0,
    missed          bigint   NOT NULL DEFAULT 0,
    overlapped      bigint   NOT NULL DEFAULT 0,
    refused         bigint   NOT NULL DEFAULT 0,
    changed_at      bigint   NOT NULL
) WITH (fillfactor = 70);

-- What happened to a schedule; the newest of each are kept.
CREATE TABLE @schedule_event (
    schedule        text     NOT NULL,
    seq             bigint   NOT NULL,
    at              bigint   NOT NULL,
    kind            text     NOT NULL,
    data            text     NOT NULL,
    PRIMARY KEY (schedule, seq)
);

-- Read by each transaction that ends tasks: few rows, and none where nobody wants to be told.
CREATE TABLE @webhook (
    name            text     PRIMARY KEY,
    declaration     text     NOT NULL,
    active          boolean  NOT NULL,
    -- What it is told about. Fleets empty: all.
    fleets          text[]   NOT NULL,
    states          text[]   NOT NULL,
    -- Why nothing is sent to it any more.
    disabled        text,
    disabled_at     bigint,
    changed_at      bigint   NOT NULL,
    CHECK ((disabled IS NULL) = (disabled_at IS NULL))
);

-- One message to one webhook about the end of one task, written with that end. It outlives its task.
CREATE TABLE @delivery (
    seq             bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook         text     NOT NULL,
    task            uuid     NOT NULL,
    fleet           text     NOT NULL,
    tenant          text     NOT NULL,
    -- What the task ended as, and when.
    ended_as        text     NOT NULL CHECK (ended_as IN ('succeeded', 'failed', 'cancelled')),
    at              bigint   NOT NULL,
    state           text     NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    -- The time that tries are given up by is counted from here.
    since           bigint   NOT NULL,
    next_at         bigint,
    -- Somebody sends it now, or was killed while doing so: until then nobody else does.
    held_until      bigint,
    tries           bigint   NOT NULL DEFAULT 0,
    -- Of the newest try.
    tried_at        bigint,
    status          bigint,
    error           text,
    ended_at        bigint,
    UNIQUE (task, webhook),
    CHECK ((next_at IS NOT NULL) = (state = 'pending')),
    CHECK ((ended_at IS NULL) = (state = 'pending'))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX delivery_due ON @delivery (webhook, next_at, seq) WHERE state = 'pending';
CREATE INDEX delivery_by_webhook ON @delivery (webhook, seq);
CREATE INDEX delivery_by_state ON @delivery (webhook, state, seq);
CREATE INDEX delivery_ended ON @delivery (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX delivery_by_tenant ON @delivery (tenant, seq) WHERE tenant <> 'default';
