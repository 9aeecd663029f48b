//! Asks the file itself whether its tables agree.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

/// Each query finds what must not be there.
const FAULTS: &[(&str, &str)] = &[
    ("an unfinished task is in exactly one hot table, a finished one in none",
     "SELECT task.ord FROM task WHERE
        (SELECT count(*) FROM runnable WHERE ord = task.ord) + (SELECT count(*) FROM delayed WHERE ord = task.ord)
        + (SELECT count(*) FROM lease WHERE ord = task.ord) + (hold IS 'conversation')
        != (state IN ('queued', 'running'))"),
    ("the hot table is that of its state",
     "SELECT ord FROM task WHERE (hold IS 'ready') != (ord IN (SELECT ord FROM runnable))
        OR (due_at IS NOT NULL) != (ord IN (SELECT ord FROM delayed))
        OR (state = 'running') != (ord IN (SELECT ord FROM lease))"),
    ("hot rows say what the task says",
     "SELECT task.ord FROM task JOIN runnable USING (ord)
      WHERE task.fleet != runnable.fleet OR task.priority != -runnable.rank OR task.alone != runnable.alone OR task.tenant != runnable.tenant
      UNION ALL SELECT task.ord FROM task JOIN delayed USING (ord) WHERE task.due_at != delayed.due_at"),
    ("a lease is its task's newest attempt, which has not ended; all others have",
     "SELECT task.ord FROM attempt JOIN task USING (ord) LEFT JOIN lease USING (ord)
      WHERE (attempt.ended_at IS NULL) != (lease.fence IS attempt.fence)
        OR lease.fence IS attempt.fence AND attempt.number != task.attempts"),
    ("attempts are numbered without gaps, fences grow with them",
     "SELECT ord FROM task WHERE attempts != (SELECT count(*) FROM attempt WHERE attempt.ord = task.ord)
      UNION ALL SELECT one.ord FROM attempt AS one JOIN attempt AS two ON one.ord = two.ord
        AND one.number < two.number AND one.fence >= two.fence"),
    ("events are numbered without gaps",
     "SELECT ord FROM task JOIN event USING (ord) GROUP BY ord
      HAVING count(*) != last_event OR max(seq) != last_event OR min(seq) != 1"),
    ("a task has one event of its end, the last one, and only if it ended",
     "SELECT ord FROM task JOIN event USING (ord) GROUP BY ord
      HAVING sum(kind IN ('succeeded', 'failed', 'cancelled')) != (finished_at IS NOT NULL)
        OR finished_at IS NOT NULL AND NOT max(seq = last_event AND kind = state)"),
    ("a conversation's queue holds its unfinished tasks",
     "SELECT ord FROM task WHERE (conversation IS NOT NULL AND finished_at IS NULL)
        != (ord IN (SELECT ord FROM conversation_queue))"),
    ("only succeeded tasks have results and messages",
     "SELECT ord FROM task WHERE (state = 'succeeded') != (ord IN (SELECT ord FROM result))
      UNION ALL SELECT ord FROM message JOIN task USING (ord) WHERE state != 'succeeded'"),
    ("messages are numbered without gaps",
     "SELECT id FROM conversation WHERE messages != (SELECT count(*) FROM message WHERE conversation = id)
        OR messages != (SELECT coalesce(max(seq), 0) FROM message WHERE conversation = id)"),
    ("only valid fences have staged messages",
     "SELECT ord FROM staged_message WHERE fence NOT IN (SELECT fence FROM lease)"),
    ("a batch counts the tasks that are in it, and has ended when they have",
     "SELECT id FROM batch AS b WHERE
        queued != (SELECT count(*) FROM task WHERE batch = b.id AND state = 'queued')
        OR running != (SELECT count(*) FROM task WHERE batch = b.id AND state = 'running')
        OR waiting != (SELECT count(*) FROM task WHERE batch = b.id AND state = 'waiting')
        OR succeeded + failed + cancelled < (SELECT count(*) FROM task WHERE batch = b.id AND finished_at IS NOT NULL)
        OR (finished_at IS NOT NULL) != (NOT open AND queued + running + waiting = 0)
        OR (finished_at IS NOT NULL) != (SELECT count(*) FROM batch_event WHERE batch = b.id AND kind = 'finished')"),
    ("only a waiting task waits for something, and says what",
     "SELECT ord FROM task WHERE (state = 'waiting') != (wait_for IS NOT NULL)
        OR wait_until IS NOT NULL AND state != 'waiting'"),
    ("a child is its parent's, and a parent's is a child",
     "SELECT child.ord FROM child LEFT JOIN task USING (ord)
        WHERE task.parent IS NOT (SELECT id FROM task AS above WHERE above.ord = child.parent)
      UNION ALL SELECT ord FROM task WHERE parent IS NOT NULL AND ord NOT IN (SELECT ord FROM child)"),
    ("counts are what is there",
     "SELECT fleet FROM fleet_count AS c WHERE
        runnable != (SELECT count(*) FROM runnable WHERE fleet = c.fleet)
        OR delayed != (SELECT count(*) FROM task WHERE fleet = c.fleet AND due_at IS NOT NULL)
        OR held != (SELECT count(*) FROM task WHERE fleet = c.fleet AND hold = 'conversation')
        OR waiting != (SELECT count(*) FROM task WHERE fleet = c.fleet AND state = 'waiting')
        OR running != (SELECT count(*) FROM task WHERE fleet = c.fleet AND state = 'running')
        OR succeeded != (SELECT count(*) FROM task WHERE fleet = c.fleet AND state = 'succeeded')
        OR failed != (SELECT count(*) FROM task WHERE fleet = c.fleet AND state = 'failed')
        OR cancelled != (SELECT count(*) FROM task WHERE fleet = c.fleet AND state = 'cancelled')"),
    ("a fleet's counts are the sum of its lanes",
     "SELECT fleet FROM fleet_count AS c JOIN lane AS l USING (fleet) GROUP BY fleet
      HAVING c.runnable != sum(l.runnable) OR c.delayed != sum(l.delayed) OR c.held != sum(l.held)
        OR c.running != sum(l.running) OR c.waiting != sum(l.waiting) OR c.succeeded != sum(l.succeeded)
        OR c.failed != sum(l.failed) OR c.cancelled != sum(l.cancelled)"),
    ("a lane's counts are what is there",
     "SELECT fleet FROM lane AS l WHERE
        runnable != (SELECT count(*) FROM runnable WHERE fleet = l.fleet AND tenant = l.tenant)
        OR suspects != (SELECT count(*) FROM runnable WHERE fleet = l.fleet AND tenant = l.tenant AND alone)
        OR running != (SELECT count(*) FROM task WHERE fleet = l.fleet AND tenant = l.tenant AND state = 'running')
        OR waiting != (SELECT count(*) FROM task WHERE fleet = l.fleet AND tenant = l.tenant AND state = 'waiting')
        OR failed != (SELECT count(*) FROM task WHERE fleet = l.fleet AND tenant = l.tenant AND state = 'failed')"),
    ("only a task whose deadline has passed was told of it",
     "SELECT ord FROM task WHERE expired AND deadline_at IS NULL
      UNION ALL SELECT ord FROM task WHERE expired AND state = 'queued'"),
];

pub fn check(dir: &Path) {
    let file =
        Connection::open_with_flags(dir.join("longshore.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    for (rule, query) in FAULTS {
        let found = file.prepare(query).unwrap().exists([]).unwrap();
        assert!(!found, "broken: {rule}");
    }
}
