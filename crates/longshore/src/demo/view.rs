//! What the tour looks like: a frame of lines for a terminal, one line elsewhere. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_api::link::WorkerState;
use longshore_simulate::Totals;

use super::book::{Book, Look};
use super::stage::{MAX, MIN};
use crate::output::{Paint, clean, paint, paint_of, shorten};

/// What is shown now.
pub struct Scene<'a> {
    pub look: &'a Look,
    pub book: &'a Book,
    /// What the LLM provider has on its bill.
    pub calls: &'a Totals,
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
/// In fewer the workers matter more.
const ROWS_FOR_CALLS: usize = 20;

impl Scene<'_> {
    /// The frame; never more lines than fit.
    pub fn frame(&self, size: Size) -> Vec<String> {
        let width = size.columns.max(20);
        let mut lines =
            vec![self.title(), String::new(), self.counts(), self.bar(width.min(100)), String::new()];
        if size.rows >= ROWS_FOR_CALLS {
            lines.insert(3, self.spent());
        }
        lines.push(paint(&self.crew(), Paint::Bold));
        lines.extend(self.workers(width));
        lines.extend(self.rollout(width));
        let room = size.rows.saturating_sub(lines.len() + 1 + 4);
        let decisions = DECISIONS.min(room / 2);
        lines.push(String::new());
        lines.extend(under("scaler", self.decisions(decisions, width)));
        lines.extend(under("events", self.events(EVENTS.min(room.saturating_sub(decisions)), width)));
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

    fn spent(&self) -> String {
        let Totals { answered, output_tokens, cost, .. } = self.calls;
        // For eyes only; the provider writes it as a decimal.
        let cost = cost.parse::<f64>().unwrap_or_default();
        let open = self.calls.open();
        format!(
            "calls    {answered:>3} answered {open:>3} in flight   {output_tokens} tokens written, ${cost:.2}"
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

    /// Where the rollout stands, from its begin on; workers by release until its end.
    fn rollout(&self, width: usize) -> Option<String> {
        let rollout = self.book.rollout.as_ref()?;
        let says = match self.releases() {
            Some(releases) => format!("{releases}; {}", step(&rollout.says)),
            None => rollout.says.clone(),
        };
        Some(shorten(&format!("rollout  {}", clean(&says)), width))
    }

    /// `release 1: 6, release 2: 2`, draining ones apart; `None`: no rollout is under way.
    fn releases(&self) -> Option<String> {
        let rollout = self.book.rollout.as_ref().filter(|_| self.book.rolls())?;
        let mut counts = BTreeMap::from([(rollout.from, 0), (rollout.to, 0)]);
        let leave = [WorkerState::Draining, WorkerState::Gone];
        for worker in self.look.workers.iter().filter(|worker| !leave.contains(&worker.state)) {
            *counts.entry(worker.release).or_default() += 1;
        }
        let counts: Vec<String> =
            counts.iter().map(|(release, count): (_, &u32)| format!("release {release}: {count}")).collect();
        Some(counts.join(", "))
    }

    /// Those that are there, side by side as far as they fit.
    fn workers(&self, width: usize) -> Vec<String> {
        let there: Vec<_> =
            self.look.workers.iter().filter(|worker| worker.state != WorkerState::Gone).collect();
        let across = (width / CELL).clamp(1, 3);
        let cell = |worker: &&longshore_api::fleet::Worker| {
            let state = format!("{:<9}", worker.state.as_str());
            let colour = paint_of(worker.state.as_str()).unwrap_or(Paint::Faint);
            let work = match worker.in_flight {
                0 => "idle".to_owned(),
                1 => "1 task".to_owned(),
                more => format!("{more} tasks"),
            };
            format!("  {:<14} {} {:<8} ", shorten(&clean(&worker.id), 14), paint(&state, colour), work)
        };
        there.chunks(across).map(|row| row.iter().map(cell).collect::<String>()).collect()
    }

    /// The newest decision, and before it those that changed something.
    fn decisions(&self, most: usize, width: usize) -> Vec<String> {
        let all = &self.book.decisions;
        let telling = all
            .iter()
            .enumerate()
            .rev()
            .filter(|(index, decision)| *index + 1 == all.len() || decision.kind != "hold");
        let newest: Vec<_> = telling.take(most).map(|(_, decision)| decision).collect();
        newest.iter().rev().map(|decision| self.decision(decision, width)).collect()
    }

    fn decision(&self, decision: &longshore_api::fleet::Decision, width: usize) -> String {
        let line = format!("  {}  {}", clock(self.book.since_start(decision.at)), clean(&decision.reason));
        // The numbers at its end go first.
        match line.rsplit_once(" (") {
            Some((words, _)) if line.chars().count() > width => shorten(words, width),
            _ => shorten(&line, width),
        }
    }

    fn events(&self, most: usize, width: usize) -> Vec<String> {
        let skip = self.book.events.len().saturating_sub(most);
        let line =
            |(at, event): &(Duration, String)| shorten(&format!("  {}  {}", clock(*at), clean(event)), width);
        self.book.events.iter().skip(skip).map(line).collect()
    }

    /// The state in one line, without the time.
    pub fn line(&self) -> String {
        let tasks = &self.look.fleet.tasks;
        format!(
            "{} queued, {} running, {} done, {} failed; {} LLM calls; workers: {}{}",
            tasks.queued,
            tasks.running,
            tasks.succeeded,
            tasks.failed + tasks.cancelled,
            self.calls.answered,
            crew(self.look),
            self.releases().map(|releases| format!("; {releases}")).unwrap_or_default()
        )
    }
}

/// What a rollout does now, without the releases that it is about.
fn step(says: &str) -> &str {
    says.split_once(": ").map_or(says, |(_, step)| step)
}

/// Lines with a heading; nothing at all without lines.
fn under(heading: &str, mut lines: Vec<String>) -> Vec<String> {
    if !lines.is_empty() {
        lines.insert(0, paint(heading, Paint::Bold));
    }
    lines
}

/// `6 ready, 2 starting`.
fn crew(look: &Look) -> String {
    let states = [WorkerState::Ready, WorkerState::Starting, WorkerState::NotReady, WorkerState::Draining];
    let counts = states.map(|state| (look.count(state), state.as_str().replace('_', " ")));
    let parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if parts.is_empty() { "none yet".into() } else { parts.join(", ") }
}

/// `  7.3s`.
pub fn clock(elapsed: Duration) -> String {
    format!("{:>5.1}s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_api::fleet::Worker;
    use longshore_api::rollout::Rollout;
    use longshore_core::fleet::Fleet;
    use longshore_core::id::FleetName;
    use serde_json::json;

    fn look(workers: usize) -> Look {
        let name = FleetName::new("demo").expect("valid");
        let declaration = Fleet::new(name, vec!["true".into()], "/".into());
        let tasks =
            json!({"queued": 50, "running": 50, "waiting": 0, "succeeded": 99, "failed": 1, "cancelled": 0});
        let fleet = json!({
            "name": "demo", "release": 1, "active": true, "declaration": declaration, "tasks": tasks,
            "workers": {"starting": 0, "ready": 0, "not_ready": 0, "draining": 0}, "runnable": 50,
        });
        let worker = |number: usize| {
            let state = if number == 0 { "gone" } else { "ready" };
            let worker = json!({
                "id": format!("demo-abcdef-{number}"), "fleet": "demo", "state": state, "release": 1,
                "platform": "process", "concurrency": 1, "in_flight": number.min(1), "memory": 1, "version": "0",
            });
            serde_json::from_value::<Worker>(worker).expect("a worker")
        };
        Look {
            fleet: serde_json::from_value(fleet).expect("a fleet"),
            workers: (0..workers).map(worker).collect(),
        }
    }

    fn rollout(ended: bool) -> Rollout {
        let says = if ended { "release 2 has replaced 1" } else { "release 1 is replaced by 2: it begins" };
        let at = longshore_core::time::Timestamp(1_000);
        let rollout = json!({
            "fleet": "demo", "number": 1, "from": 1, "to": 2, "phase": if ended { "done" } else { "forward" },
            "paused": false, "says": says, "spent_ms": 0, "deadline_ms": 1, "started_at": at,
            "ended_at": ended.then_some(at),
        });
        serde_json::from_value(rollout).expect("a rollout")
    }

    fn calls() -> Totals {
        let cost = "12.345678901".into();
        Totals { received: 410, answered: 402, output_tokens: 123_456, cost, ..Totals::default() }
    }

    fn frame(workers: usize, size: Size) -> Vec<String> {
        let mut book = Book::open();
        for number in 0..20 {
            book.tell(format!("event {number} {}", "x".repeat(300)));
        }
        book.rollout = Some(rollout(false));
        let look = look(workers);
        let calls = calls();
        let scene = Scene { look: &look, book: &book, calls: &calls, total: 250, phase: "works" };
        scene.frame(size).iter().map(|line| without_colours(line)).collect()
    }

    fn without_colours(line: &str) -> String {
        let mut parts = line.split('\u{1b}');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
    }

    #[test]
    fn a_frame_fits_its_terminal_whatever_there_is_to_show() {
        for (columns, rows) in [(80, 24), (20, 5), (200, 60), (40, 10), (0, 0)] {
            for workers in [1, 9, 40] {
                let lines = frame(workers, Size { columns, rows });
                assert!(lines.len() < rows.max(1), "{} lines in {rows} rows", lines.len());
            }
        }
        let wide = frame(9, Size { columns: 80, rows: 24 });
        assert!(wide.iter().all(|line| line.chars().count() <= 80), "{wide:#?}");
    }

    #[test]
    fn the_newest_events_and_the_living_workers_are_shown() {
        let text = frame(9, Size { columns: 80, rows: 24 }).join("\n");
        assert!(text.contains("event 19") && !text.contains("event 3 "), "{text}");
        assert!(text.contains("demo-abcdef-8") && !text.contains("demo-abcdef-0"), "{text}");
        assert!(text.contains("8 ready"), "{text}");
        assert!(text.contains("402 answered") && text.contains("  8 in flight"), "{text}");
    }

    #[test]
    fn a_rollout_is_shown_with_its_workers_by_release_and_then_as_what_it_came_to() {
        let (mut look, calls, mut book) = (look(9), calls(), Book::open());
        look.workers[7].release = 2;
        (look.workers[8].release, look.workers[8].state) = (2, WorkerState::Draining);
        let check = |book: &Book, row: Option<&str>, end: &str| {
            let scene = Scene { look: &look, book, calls: &calls, total: 250, phase: "" };
            assert_eq!(scene.rollout(80).as_deref(), row);
            assert!(scene.line().ends_with(end), "{}", scene.line());
        };
        check(&book, None, "7 ready, 1 draining");
        book.rollout = Some(rollout(false));
        let row = "rollout  release 1: 6, release 2: 1; it begins";
        check(&book, Some(row), "1 draining; release 1: 6, release 2: 1");
        book.rollout = Some(rollout(true));
        check(&book, Some("rollout  release 2 has replaced 1"), "7 ready, 1 draining");
    }

    #[test]
    fn the_bar_shows_every_part_in_proportion() {
        let look = look(1);
        let book = Book::open();
        let calls = calls();
        let scene = Scene { look: &look, book: &book, calls: &calls, total: 250, phase: "" };
        let bar = without_colours(&scene.bar(50));
        let count = |sign: char| bar.chars().filter(|c| *c == sign).count();
        assert_eq!(['█', '▓', '▒', '·'].map(count), [20, 10, 10, 10], "{bar}");
    }
}
