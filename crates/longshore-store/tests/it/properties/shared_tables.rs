//! Asks Postgres whether its tables agree.

use tokio_postgres::{Client, Statement};

use crate::support::World;

/// Each query finds what must not be there.
const FAULTS: &[(&str, &str)] = &[
    (
        "a task is either live or done",
        "SELECT task.id FROM task LEFT JOIN live USING (id) LEFT JOIN done USING (id)
         WHERE (live.id IS NULL) = (done.id IS NULL)
         UNION ALL SELECT id FROM live WHERE id NOT IN (SELECT id FROM task)",
    ),
    (
        "a live row says what the task says",
        "SELECT task.id FROM task JOIN live USING (id) WHERE task.fleet != live.fleet OR task.priority != -live.rank
            OR task.conversation IS DISTINCT FROM live.conversation OR task.conv_seq IS DISTINCT FROM live.conv_seq
            OR task.tenant != live.tenant OR task.deadline_at IS DISTINCT FROM live.deadline_at
            OR task.run_at IS DISTINCT FROM live.run_at OR task.created_at != live.created_at",
    ),
    (
        "a child is its parent's, as is said of it everywhere, and its parent came before it",
        "SELECT c.child FROM child AS c LEFT JOIN task ON task.id = c.child
         WHERE task.parent IS DISTINCT FROM c.task OR c.task >= c.child
         UNION ALL SELECT task.id FROM task LEFT JOIN live USING (id) LEFT JOIN done USING (id)
         WHERE task.parent IS DISTINCT FROM coalesce(live.parent, done.parent)
            OR (task.parent IS NOT NULL) != (id IN (SELECT child FROM child))",
    ),
    (
        "whoever waits for children has one that has not ended",
        "SELECT id FROM live AS p WHERE wait_for::json -> 'children' IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM live AS c WHERE c.parent = p.id)",
    ),
    (
        "whoever waits for an answer has asked, and nobody answered",
        "SELECT id FROM live WHERE wait_for::json -> 'question' IS NOT NULL AND NOT EXISTS
            (SELECT 1 FROM question AS q WHERE q.task = id AND q.name = wait_for::json -> 'question' ->> 'name'
                AND q.answered_at IS NULL)
         UNION ALL SELECT id FROM live WHERE asked != (id IN (SELECT task FROM question))",
    ),
    (
        "children of cancelled tasks are cancelled, or are to be",
        "SELECT c.child FROM child AS c JOIN done AS p ON p.id = c.task JOIN live AS l ON l.id = c.child
         WHERE p.state = 'cancelled' AND NOT c.detach AND NOT l.cancel_requested
            AND c.task NOT IN (SELECT parent FROM orphaned)",
    ),
    (
        "whatever could run knows since when",
        "SELECT id FROM live WHERE (hold IS NOT DISTINCT FROM 'ready') != (since IS NOT NULL)",
    ),
    (
        "a lease is whole, or not there",
        "SELECT id FROM live WHERE num_nulls(fence, worker, claim_seq, attempt_at, expires_ms) NOT IN (0, 5)",
    ),
    (
        "a lease is its task's newest attempt, which has not ended; all others have",
        "SELECT began.task FROM event AS began JOIN live ON live.id = began.task
            LEFT JOIN event AS ended ON ended.task = began.task AND ended.fence = began.fence
                AND ended.kind = 'attempt_ended'
         WHERE began.kind = 'started' AND ((ended.task IS NULL) != (live.fence IS NOT DISTINCT FROM began.fence)
            OR live.fence = began.fence AND began.attempt != live.attempts)",
    ),
    (
        "attempts are numbered without gaps, fences grow with them",
        "SELECT task.id FROM task LEFT JOIN live USING (id) LEFT JOIN done USING (id)
         WHERE coalesce(live.attempts, done.attempts)
            != (SELECT count(*) FROM event WHERE event.task = task.id AND kind = 'started')
         UNION ALL SELECT one.task FROM event AS one JOIN event AS two USING (task)
         WHERE one.kind = 'started' AND two.kind = 'started' AND one.attempt < two.attempt AND one.fence >= two.fence",
    ),
    (
        "events are numbered without gaps",
        "SELECT task FROM (SELECT task, seq, seq + 1 + coalesce(json_array_length(more::json), 0) AS following,
                lead(seq) OVER (PARTITION BY task ORDER BY seq) AS next,
                lag(seq) OVER (PARTITION BY task ORDER BY seq) AS before FROM event) AS e
            LEFT JOIN live ON live.id = e.task LEFT JOIN done ON done.id = e.task
         WHERE following != coalesce(next, coalesce(live.last_event, done.last_event) + 1)
            OR before IS NULL AND seq != 1",
    ),
    (
        "a task has one event of its end, the last one, and only if it ended",
        "SELECT id FROM (SELECT task AS id, seq, kind FROM event
                UNION ALL SELECT task, seq + n, one ->> 0 FROM event,
                    json_array_elements(more::json) WITH ORDINALITY AS m (one, n)) AS e
            LEFT JOIN done USING (id)
         GROUP BY id, done.state, done.last_event
         HAVING count(*) FILTER (WHERE kind IN ('succeeded', 'failed', 'cancelled')) != count(DISTINCT done.state)
            OR done.state IS NOT NULL
                AND count(*) FILTER (WHERE kind = done.state AND seq = done.last_event) != 1",
    ),
    (
        "places in a conversation are given once, and only those before the next",
        "SELECT conversation FROM task WHERE conversation IS NOT NULL GROUP BY conversation
         HAVING count(*) != count(DISTINCT conv_seq)
            OR max(conv_seq) >= (SELECT next_seq FROM conversation AS c WHERE c.id = conversation)",
    ),
    (
        "only succeeded tasks have results and messages",
        "SELECT id FROM done WHERE (state = 'succeeded') != (result IS NOT NULL)
         UNION ALL SELECT task FROM message WHERE task NOT IN (SELECT id FROM done WHERE state = 'succeeded')",
    ),
    (
        "messages are numbered without gaps",
        "SELECT id FROM conversation AS c WHERE messages != (SELECT count(*) FROM message WHERE conversation = c.id)
            OR messages != (SELECT coalesce(max(seq), 0) FROM message WHERE conversation = c.id)",
    ),
    (
        "only valid fences have staged messages",
        "SELECT task FROM staged_message WHERE fence NOT IN (SELECT fence FROM live WHERE fence IS NOT NULL)",
    ),
    (
        "what an ended task never had is noted at its end",
        "SELECT id FROM done WHERE dropped != CASE state WHEN 'succeeded' THEN 0 ELSE 2 END
            + CASE WHEN id IN (SELECT task FROM journal UNION ALL SELECT task FROM step) THEN 0 ELSE 1 END",
    ),
    (
        "a batch counts its tasks, and has ended when they have",
        "SELECT b.id FROM batch AS b
            LEFT JOIN (task JOIN (SELECT id, state FROM live UNION ALL SELECT id, state FROM done) AS now USING (id))
                ON task.batch = b.id
         GROUP BY b.id
         HAVING queued != count(*) FILTER (WHERE state = 'queued') OR running != count(*) FILTER (WHERE state = 'running')
            OR waiting != count(*) FILTER (WHERE state = 'waiting')
            OR succeeded != count(*) FILTER (WHERE state = 'succeeded')
            OR failed != count(*) FILTER (WHERE state = 'failed')
            OR cancelled != count(*) FILTER (WHERE state = 'cancelled')
            OR (finished_at IS NOT NULL) != (NOT open AND queued + running + waiting = 0)
            OR (SELECT count(*) FROM batch_event WHERE batch = b.id AND kind = 'finished') != num_nonnulls(finished_at)
         UNION ALL SELECT task.id FROM task LEFT JOIN live USING (id) LEFT JOIN done USING (id)
         WHERE task.batch IS DISTINCT FROM coalesce(live.batch, done.batch)",
    ),
    (
        "a lane's counts are what is there, and the default tenant has none",
        "SELECT fleet FROM lane AS l WHERE tenant = 'default'
            OR runnable != (SELECT count(*) FROM live WHERE fleet = l.fleet AND tenant = l.tenant AND hold = 'ready')
            OR delayed != (SELECT count(*) FROM live WHERE fleet = l.fleet AND tenant = l.tenant AND due_at IS NOT NULL)
            OR held != (SELECT count(*) FROM live WHERE fleet = l.fleet AND tenant = l.tenant AND hold = 'conversation')
            OR running != (SELECT count(*) FROM live WHERE fleet = l.fleet AND tenant = l.tenant AND state = 'running')
            OR waiting != (SELECT count(*) FROM live WHERE fleet = l.fleet AND tenant = l.tenant AND state = 'waiting')
            OR succeeded + failed + cancelled
                != (SELECT count(*) FROM done WHERE fleet = l.fleet AND tenant = l.tenant)
         UNION ALL SELECT fleet FROM live WHERE tenant != 'default'
            AND NOT EXISTS (SELECT 1 FROM lane AS l WHERE l.fleet = live.fleet AND l.tenant = live.tenant)",
    ),
    (
        "only a task whose deadline has passed was told of it",
        "SELECT id FROM live WHERE expired AND (deadline_at IS NULL OR state = 'queued')",
    ),
    (
        "counts are what is there",
        "SELECT fleet FROM (SELECT fleet, sum(runnable) AS runnable, sum(delayed) AS delayed, sum(held) AS held,
                sum(running) AS running, sum(waiting) AS waiting, sum(succeeded) AS succeeded, sum(failed) AS failed,
                sum(cancelled) AS cancelled FROM fleet_count GROUP BY fleet) AS c
         WHERE runnable != (SELECT count(*) FROM live WHERE live.fleet = c.fleet AND hold = 'ready')
            OR delayed != (SELECT count(*) FROM live WHERE live.fleet = c.fleet AND due_at IS NOT NULL)
            OR held != (SELECT count(*) FROM live WHERE live.fleet = c.fleet AND hold = 'conversation')
            OR running != (SELECT count(*) FROM live WHERE live.fleet = c.fleet AND state = 'running')
            OR waiting != (SELECT count(*) FROM live WHERE live.fleet = c.fleet AND state = 'waiting')
            OR succeeded != (SELECT count(*) FROM done WHERE done.fleet = c.fleet AND state = 'succeeded')
            OR failed != (SELECT count(*) FROM done WHERE done.fleet = c.fleet AND state = 'failed')
            OR cancelled != (SELECT count(*) FROM done WHERE done.fleet = c.fleet AND state = 'cancelled')",
    ),
];

/// The tables of one store.
pub struct SharedTables {
    client: Client,
    /// All of [`FAULTS`] as one: the names of the rules that are broken.
    broken: Statement,
}

impl SharedTables {
    pub async fn of(world: &World) -> SharedTables {
        let client = world.client().await;
        let queries: Vec<String> = FAULTS
            .iter()
            .enumerate()
            .map(|(at, (_, query))| format!("SELECT {at}::bigint WHERE EXISTS ({query})"))
            .collect();
        let broken = client.prepare(&queries.join("\nUNION ALL ")).await.unwrap();
        SharedTables { client, broken }
    }

    pub async fn check(&self) {
        let found = self.client.query(&self.broken, &[]).await.unwrap();
        let rules: Vec<&str> = found.iter().map(|row| FAULTS[row.get::<_, i64>(0) as usize].0).collect();
        assert!(rules.is_empty(), "broken: {rules:?}");
    }
}
