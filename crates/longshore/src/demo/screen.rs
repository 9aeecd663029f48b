//! Where the tour is shown: redrawn in place on a terminal, line by line elsewhere.
//!
//! Nobody watching is no reason to stop: errors of writing are passed over.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use super::view::{Scene, Size, clock};
use crate::output::clean;

pub enum Screen {
    Live(Live),
    Lines(Lines),
}

impl Screen {
    /// With `json`, standard output is for the last line alone.
    pub fn open(json: bool) -> Screen {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match !json && !dumb && io::stdout().is_terminal() {
            true => Screen::Live(Live { drawn: 0 }),
            false => {
                Screen::Lines(Lines { json, last: String::new(), said_at: None, events: 0, decisions: 0 })
            }
        }
    }

    pub fn show(&mut self, scene: &Scene<'_>) {
        match self {
            Screen::Live(live) => live.draw(&scene.frame(size())),
            Screen::Lines(lines) => lines.say(scene),
        }
    }
}

/// Columns and rows, or what a terminal had when there was only one kind.
fn size() -> Size {
    let known = terminal_size::terminal_size().filter(|(columns, rows)| columns.0 > 0 && rows.0 > 0);
    let (columns, rows) = known.map_or((80, 24), |(columns, rows)| (columns.0, rows.0));
    Size { columns: columns.into(), rows: rows.into() }
}

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
/// Without it, a line that is too long would become two, and the next frame would begin in the wrong place.
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";
const ERASE_LINE_REST: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

/// A frame that is drawn over the one before; the last one stays.
pub struct Live {
    /// Lines of the frame before.
    drawn: usize,
}

impl Live {
    fn draw(&mut self, lines: &[String]) {
        let mut out = format!("{HIDE_CURSOR}{WRAP_OFF}\r");
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            out.push_str(line);
            out.push_str(ERASE_LINE_REST);
            out.push('\n');
        }
        out.push_str(ERASE_BELOW);
        out.push_str(WRAP_ON);
        self.drawn = lines.len();
        write(&mut io::stdout(), &out);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        write(&mut io::stdout(), &format!("{WRAP_ON}{SHOW_CURSOR}"));
    }
}

/// One line a second at most for the state, and one for each event and decision.
pub struct Lines {
    json: bool,
    last: String,
    said_at: Option<Instant>,
    events: usize,
    decisions: usize,
}

const PAUSE: Duration = Duration::from_secs(1);

impl Lines {
    fn say(&mut self, scene: &Scene<'_>) {
        if self.said_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let mut text = String::new();
        let book = scene.book;
        let decisions = book.decisions.iter().skip(self.decisions);
        let decisions =
            decisions.map(|decision| (book.since_start(decision.at), format!("scaler {}", decision.reason)));
        let events = book.events.iter().skip(self.events).cloned();
        let mut told: Vec<_> = events.chain(decisions).collect();
        told.sort_by_key(|(at, _)| *at);
        for (at, what) in told {
            text.push_str(&format!("{}  {}\n", clock(at), clean(&what)));
        }
        (self.events, self.decisions) = (book.events.len(), book.decisions.len());
        let line = scene.line();
        if line != self.last {
            text.push_str(&format!("{}  {line}\n", clock(book.start.elapsed())));
            self.last = line;
        }
        if !text.is_empty() {
            self.said_at = Some(Instant::now());
            if self.json { write(&mut io::stderr(), &text) } else { write(&mut io::stdout(), &text) }
        }
    }
}

fn write(out: &mut impl Write, text: &str) {
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
