//! The bill: what was asked, how it ended, and what a provider would charge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::answer::Usage;
use crate::digest::Digest;
use crate::pace::Timeline;
use crate::price::{Cost, Prices};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// How many different requests there were.
    pub distinct: u64,
    pub totals: Totals,
    /// In the order in which they first arrived.
    pub requests: Vec<Line>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Arrivals, however they ended.
    pub received: u64,
    /// Complete answers.
    pub answered: u64,
    /// Begun, but not completed: by a fault, or because the client left.
    pub broken: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Cached ones included.
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// Dollars, as a decimal.
    pub cost: String,
}

/// One request, with how often it came and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub path: String,
    pub model: String,
    pub digest: String,
    /// How the last text of the user begins.
    pub label: String,
    #[serde(flatten)]
    pub totals: Totals,
}

impl Totals {
    /// Calls that have not ended yet.
    pub fn open(&self) -> u64 {
        self.received.saturating_sub(self.answered + self.broken + self.refused)
    }
}

pub(crate) struct Ledger {
    prices: Prices,
    bill_broken: bool,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Grows with each reset, so that a call from before it is not written into the new book.
    edition: u64,
    places: HashMap<Digest, usize>,
    entries: Vec<Entry>,
}

struct Entry {
    line: Line,
    cost: Cost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Broken,
    Refused,
}

impl Ledger {
    pub(crate) fn new(prices: Prices, bill_broken: bool) -> Arc<Ledger> {
        Arc::new(Ledger { prices, bill_broken, book: Mutex::default() })
    }

    /// Writes down an arrival; also says how often this request has arrived by now.
    pub(crate) fn receive(
        self: &Arc<Self>,
        digest: &Digest,
        path: &str,
        model: &str,
        label: &str,
    ) -> (Ticket, u64) {
        let mut book = self.book();
        let Book { places, entries, .. } = &mut *book;
        let place = *places.entry(*digest).or_insert_with(|| {
            let label = label.chars().take(60).collect();
            let (path, model) = (path.to_owned(), model.to_owned());
            let line = Line { path, model, label, digest: digest.hex(8), totals: Totals::default() };
            entries.push(Entry { line, cost: Cost::default() });
            entries.len() - 1
        });
        let received = &mut entries[place].line.totals.received;
        *received += 1;
        let received = *received;
        let edition = book.edition;
        drop(book);
        (Ticket { ledger: Arc::clone(self), place, edition, begun: None, ended: false }, received)
    }

    pub(crate) fn bill(&self) -> Bill {
        let book = self.book();
        let (mut totals, mut cost) = (Totals::default(), Cost::default());
        let requests: Vec<Line> = book.entries.iter().map(Entry::shown).collect();
        for entry in &book.entries {
            totals.add(&entry.line.totals);
            cost.add(entry.cost);
        }
        totals.cost = cost.to_string();
        Bill { distinct: requests.len() as u64, totals, requests }
    }

    pub(crate) fn reset(&self) {
        let mut book = self.book();
        *book = Book { edition: book.edition + 1, ..Book::default() };
    }

    fn end(&self, place: usize, edition: u64, end: End, usage: Usage) {
        let mut book = self.book();
        if book.edition != edition {
            return;
        }
        let entry = &mut book.entries[place];
        let totals = &mut entry.line.totals;
        match end {
            End::Answered => totals.answered += 1,
            End::Broken => totals.broken += 1,
            End::Refused => totals.refused += 1,
        }
        totals.input_tokens += usage.input;
        totals.cached_tokens += usage.cached;
        totals.output_tokens += usage.output;
        if let Some(price) = self.prices.of(&entry.line.model) {
            entry.cost.add(Cost::of(price, usage.input, usage.cached, usage.output));
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn shown(&self) -> Line {
        let mut line = self.line.clone();
        line.totals.cost = self.cost.to_string();
        line
    }
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.received += other.received;
        self.answered += other.answered;
        self.broken += other.broken;
        self.refused += other.refused;
        self.input_tokens += other.input_tokens;
        self.cached_tokens += other.cached_tokens;
        self.output_tokens += other.output_tokens;
    }
}

/// One call. Dropped before its end was told, it broke.
pub(crate) struct Ticket {
    ledger: Arc<Ledger>,
    place: usize,
    edition: u64,
    begun: Option<Begun>,
    ended: bool,
}

/// From here on a provider's machines work, and what they did is paid for.
struct Begun {
    usage: Usage,
    progress: Progress,
}

#[derive(Clone, Copy)]
pub(crate) enum Progress {
    /// So many tokens were sent.
    Sent(u64),
    /// Nothing is seen from outside; the clock says how many tokens there are.
    Clock(Timeline),
}

impl Ticket {
    pub(crate) fn begin(&mut self, usage: Usage, progress: Progress) {
        self.begun = Some(Begun { usage, progress });
    }

    pub(crate) fn sent(&mut self, tokens: u64) {
        if let Some(begun) = &mut self.begun {
            begun.progress = Progress::Sent(tokens);
        }
    }

    pub(crate) fn answered(&mut self) {
        let usage = self.begun.as_ref().map(|begun| begun.usage).unwrap_or_default();
        self.end(End::Answered, usage);
    }

    pub(crate) fn refused(mut self) {
        self.end(End::Refused, Usage::default());
    }

    fn end(&mut self, end: End, usage: Usage) {
        if !std::mem::replace(&mut self.ended, true) {
            self.ledger.end(self.place, self.edition, end, usage);
        }
    }

    /// What had been generated of an answer that broke off.
    fn generated(&self) -> Usage {
        let begun = self.begun.as_ref().filter(|_| self.ledger.bill_broken);
        begun.map_or_else(Usage::default, |begun| {
            let output = match begun.progress {
                Progress::Sent(tokens) => tokens,
                Progress::Clock(timeline) => timeline.tokens_by(Instant::now(), begun.usage.output),
            };
            Usage { output, ..begun.usage }
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            let usage = self.generated();
            self.end(End::Broken, usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage = Usage { input: 100, cached: 0, output: 50, hidden: 0 };

    fn ticket(ledger: &Arc<Ledger>, text: &str) -> Ticket {
        ledger.receive(&Digest::of(text.as_bytes()), "/p", "m", text).0
    }

    #[test]
    fn equal_requests_share_a_line_and_each_end_is_counted_once() {
        let ledger = Ledger::new(Prices::default(), true);
        let mut answered = ticket(&ledger, "a");
        answered.begin(USAGE, Progress::Sent(0));
        answered.answered();
        drop(answered);
        ticket(&ledger, "a").refused();
        let _open = ticket(&ledger, "b");
        let bill = ledger.bill();
        assert_eq!((bill.distinct, bill.totals.received, bill.totals.open()), (2, 3, 1));
        let a = &bill.requests[0].totals;
        assert_eq!((a.answered, a.refused, a.broken, a.cost.as_str()), (1, 1, 0, "0.0003"));
    }

    #[test]
    fn a_broken_answer_costs_what_was_generated_unless_told_otherwise() {
        for (bill_broken, tokens) in [(true, (100, 7)), (false, (0, 0))] {
            let ledger = Ledger::new(Prices::default(), bill_broken);
            let mut broken = ticket(&ledger, "a");
            broken.begin(USAGE, Progress::Sent(7));
            drop(broken);
            let totals = ledger.bill().totals;
            assert_eq!((totals.broken, (totals.input_tokens, totals.output_tokens)), (1, tokens));
        }
    }

    #[test]
    fn a_call_from_before_a_reset_is_not_in_the_new_book() {
        let ledger = Ledger::new(Prices::default(), true);
        let old = ticket(&ledger, "a");
        ledger.reset();
        ticket(&ledger, "b").refused();
        drop(old);
        let bill = ledger.bill();
        assert_eq!((bill.distinct, bill.totals.broken, bill.totals.refused), (1, 0, 1));
    }
}
