//! Output for people and for programs: tables, colours, JSON.
//!
//! Colours only on a terminal and without NO_COLOR. Text that came from outside is cleaned of control characters
//! before it reaches a terminal.

use std::io::{self, IsTerminal, Write};

use longshore_core::time::Timestamp;
use serde::Serialize;

use crate::error::Outcome;

/// Replaces control characters, line breaks included, by what they are called.
pub fn clean(text: &str) -> String {
    replace(text, |_| false)
}

/// The same, but line breaks and tabs stay.
pub fn clean_lines(text: &str) -> String {
    replace(text, |c| matches!(c, '\n' | '\t'))
}

fn replace(text: &str, keep: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if keep(c) || !c.is_control() => out.push(c),
            c => out.extend(c.escape_default()),
        }
    }
    out
}

/// Cuts a text to `most` characters.
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Prints one line to standard output.
pub fn line(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Prints a text that came from outside: as it is to a file or pipe, cleaned to a terminal.
pub fn text(text: &str) -> Outcome<()> {
    if io::stdout().is_terminal() { line(&clean_lines(text)) } else { line(text) }
}

/// Prints one line to standard error; nobody reading it is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a value as JSON: indented on a terminal, one line elsewhere.
pub fn json(value: &impl Serialize) -> Outcome<()> {
    let text = match io::stdout().is_terminal() {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    line(&text.map_err(io::Error::from)?)
}

/// Prints a value as one line of JSON, for streams.
pub fn json_line(value: &impl Serialize) -> Outcome<()> {
    line(&serde_json::to_string(value).map_err(io::Error::from)?)
}

/// A colour that says how something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Good,
    Warn,
    Bad,
    Faint,
    Bold,
}

/// Whether standard output takes colours.
pub fn colours() -> bool {
    wanted() && io::stdout().is_terminal()
}

fn wanted() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Colours a text if standard output takes colours.
pub fn paint(text: &str, paint: Paint) -> String {
    if colours() { painted(text, paint) } else { text.to_owned() }
}

/// The same for standard error.
pub fn paint_error(text: &str, paint: Paint) -> String {
    if wanted() && io::stderr().is_terminal() { painted(text, paint) } else { text.to_owned() }
}

fn painted(text: &str, paint: Paint) -> String {
    let code = match paint {
        Paint::Good => 32,
        Paint::Warn => 33,
        Paint::Bad => 31,
        Paint::Faint => 2,
        Paint::Bold => 1,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// The colour of a task's or worker's state.
pub fn paint_of(state: &str) -> Option<Paint> {
    match state {
        "succeeded" | "ready" | "ok" => Some(Paint::Good),
        "failed" | "fail" | "gone" => Some(Paint::Bad),
        "running" | "draining" | "not_ready" | "starting" | "warn" => Some(Paint::Warn),
        "cancelled" => Some(Paint::Faint),
        _ => None,
    }
}

/// Rows under headings, as wide as they need to be.
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    pub fn print(&self) -> Outcome<()> {
        line(self.text(colours()).trim_end_matches('\n'))
    }

    /// Cells with digits only stand to the right.
    fn text(&self, colours: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let head: Vec<String> = self.head.iter().map(|head| (*head).to_owned()).collect();
        let mut text = String::new();
        for (index, row) in std::iter::once(&head).chain(&self.rows).enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| place(cell, *width, index == 0, colours))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn place(cell: &str, width: usize, heading: bool, colours: bool) -> String {
    // Padded by hand: colour codes must not count.
    let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
    let paint = if heading { Some(Paint::Bold) } else { paint_of(cell) };
    let shown = match paint {
        Some(paint) if colours => painted(cell, paint),
        _ => cell.to_owned(),
    };
    let number = !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
    if number { gap + &shown } else { shown + &gap }
}

/// The time of day of a moment, UTC: `22:30:01.123Z`.
pub fn clock(at: Timestamp) -> String {
    at.to_string().split_once('T').map_or_else(|| at.to_string(), |(_, clock)| clock.to_owned())
}

/// A length of time in its two largest units: `2h05m`, `3m20s`, `4.2s`, `80ms`.
pub fn length(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{:.1}s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms / 1000 % 60),
        3_600_000..86_400_000 => format!("{}h{:02}m", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{}d{:02}h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

/// How long ago a moment was.
pub fn ago(at: Timestamp) -> String {
    length(now().since(at).as_millis() as u64)
}

pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Bytes in their largest unit: `12.3 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        let mut table = Table::new(&["FLEET", "TASKS", "NOTE"]);
        table.row(vec!["research".into(), "7".into(), String::new()]);
        table.row(vec!["a".into(), "12345".into(), "ö\u{1b}x".into()]);
        assert_eq!(table.text(false), "FLEET     TASKS  NOTE\nresearch      7\na         12345  ö\\u{1b}x\n");
    }

    #[test]
    fn lengths_are_told_in_two_units() {
        let told = [80, 4_200, 200_000, 7_500_000, 90_000_000].map(length);
        assert_eq!(told, ["80ms", "4.2s", "3m20s", "2h05m", "1d01h"]);
    }

    #[test]
    fn sizes_are_told_in_their_largest_unit() {
        assert_eq!([0, 1023, 1024, 15 << 20].map(size), ["0 B", "1023 B", "1.0 KiB", "15.0 MiB"]);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shorten("äöüß", 3), "äö…");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
