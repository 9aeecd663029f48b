//! What the tour looks like: a frame of lines for a terminal, one line elsewhere. Pure.

use std::time::Duration;

use longshore_api::link::WorkerState;

use super::book::{Book, Look};
use super::stage::{MAX, MIN};
use crate::output::{Paint, clean, paint, paint_of, shorten};

/// What is shown now.
pub struct Scene<'a> {
    pub look: &'a Look,
    pub book: &'a Book,
    /// Tasks of the whole burst.
    pub total: u64,
    pub phase: &'a str,
}

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Columns of one worker.
const CELL: usize = 36;
const EVENTS: usize = 6;
const DECISIONS: usize = 3;

impl Scene<'_> {
    /// The frame; never more lines than fit.
    pub fn frame(&self, size: Size) -> Vec<String> {
        let width = size.columns.max(20);
        let mut lines = vec![self.title(), String::new(), self.counts(), self.bar(width.min(100)), String::new()];
        lines.push(paint(&self.crew(), Paint::Bold));
        lines.extend(self.workers(width));
        let room = size.rows.saturating_sub(lines.len() + 1 + 4);
        let decisions = DECISIONS.min(room / 2);
        lines.push(String::new());
        lines.push(paint("scaler", Paint::Bold));
        lines.extend(self.decisions(decisions, width));
        lines.push(paint("events", Paint::Bold));
        lines.extend(self.events(EVENTS.min(room.saturating_sub(decisions)), width));
        lines.truncate(size.rows.saturating_sub(1));
        lines
    }

    fn title(&self) -> String {
        let elapsed = clock(self.book.start.elapsed());
        format!("{}  {elapsed}  {}", paint("longshore demo", Paint::Bold), self.phase)
    }

    fn counts(&self) -> String {
        let tasks = &self.look.fleet.tasks;
        let failed = tasks.failed + tasks.cancelled;
        let failed_text = format!("{failed} failed");
        format!(
            "tasks    {:>3} queued   {:>3} running   {}   {}   of {}",
            tasks.queued,
            tasks.running,
            paint(&format!("{:>3} done", tasks.succeeded), Paint::Good),
            if failed > 0 { paint(&failed_text, Paint::Bad) } else { failed_text },
            self.total
        )
    }

    /// Done, failed, running, queued, and what has not arrived yet.
    fn bar(&self, width: usize) -> String {
        let tasks = &self.look.fleet.tasks;
        let parts = [
            (tasks.succeeded, '█', Paint::Good),
            (tasks.failed + tasks.cancelled, '█', Paint::Bad),
            (tasks.running, '▓', Paint::Warn),
            (tasks.queued + tasks.waiting, '▒', Paint::Bold),
        ];
        let (mut bar, mut so_far, mut drawn) = (String::new(), 0, 0);
        for (count, sign, colour) in parts {
            so_far += count;
            let end = (so_far.min(self.total) as usize * width) / self.total.max(1) as usize;
            bar.push_str(&paint(&sign.to_string().repeat(end - drawn), colour));
            drawn = end;
        }
        bar + &paint(&"·".repeat(width - drawn), Paint::Faint)
    }

    fn crew(&self) -> String {
        format!("workers  {}   ({MIN} to {MAX} allowed)", crew(self.look))
    }

    /// Those that are there, side by side as far as they fit.
    fn workers(&self, width: usize) -> Vec<String> {
        let there: Vec<_> = self.look.workers.iter().filter(|worker| worker.state != WorkerState::Gone).collect();
        let across = (width / CELL).clamp(1, 3);
        let cell = |worker: &&longshore_api::fleet::Worker| {
            let state = format!("{:<9}", worker.state.as_str());
            let colour = paint_of(worker.state.as_str()).unwrap_or(Paint::Faint);
            let work = match worker.in_flight {
                0 => "idle".to_owned(),
                1 => "1 task".to_owned(),
                more => format!("{more} tasks"),
            };
            format!("  {:<10} {} {:<12}", shorten(&clean(&worker.id), 10), paint(&state, colour), work)
        };
        there.chunks(across).map(|row| row.iter().map(cell).collect::<String>()).collect()
    }

    fn decisions(&self, most: usize, width: usize) -> Vec<String> {
        let newest = self.book.decisions.iter().rev().take(most).collect::<Vec<_>>();
        let line = |decision: &&longshore_api::fleet::Decision| {
            let at = clock(self.book.since_start(decision.at));
            shorten(&format!("  {at}  {}", clean(&decision.reason)), width)
        };
        newest.iter().rev().map(line).collect()
    }

    fn events(&self, most: usize, width: usize) -> Vec<String> {
        let skip = self.book.events.len().saturating_sub(most);
        let line = |(at, event): &(Duration, String)| shorten(&format!("  {}  {}", clock(*at), clean(event)), width);
        self.book.events.iter().skip(skip).map(line).collect()
    }

    /// The state in one line, without the time.
    pub fn line(&self) -> String {
        let tasks = &self.look.fleet.tasks;
        format!(
            "{} queued, {} running, {} done, {} failed; workers: {}",
            tasks.queued,
            tasks.running,
            tasks.succeeded,
            tasks.failed + tasks.cancelled,
            crew(self.look)
        )
    }
}

/// `6 ready, 2 starting`.
fn crew(look: &Look) -> String {
    let states = [WorkerState::Ready, WorkerState::Starting, WorkerState::NotReady, WorkerState::Draining];
    let counts = states.map(|state| (look.count(state), state.as_str().replace('_', " ")));
    let parts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    if parts.is_empty() { "none yet".into() } else { parts.join(", ") }
}

/// `  7.3s`.
pub fn clock(elapsed: Duration) -> String {
    format!("{:>5.1}s", elapsed.as_secs_f64())
}
