//! A cron expression in a time zone, as a row of instants.
//!
//! The expression is read and searched by `croner`; the time zones are jiff's copy of the IANA database, which is part
//! of the program: a container made from nothing has no other.

use std::cmp::Ordering;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDateTime, Cron, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, ZonedDateTime};

use crate::time::Timestamp;

/// When a schedule ticks.
#[derive(Clone, Debug)]
pub struct Timing {
    cron: Cron,
    zone: TimeZone,
}

/// Why an expression, or a time zone, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    #[error("`{given}` is not a cron expression: {problem}")]
    Cron { given: String, problem: String },
    #[error("`{given}` has {fields} fields: expected five, minute, hour, day of month, month, day of week")]
    Fields { given: String, fields: usize },
    #[error("`{given}` never comes: no month has such a day")]
    Never { given: String },
    #[error(
        "`{0}` is not a time zone: expected a name of the IANA database such as \"Europe/Berlin\" or \"UTC\""
    )]
    Zone(String),
}

/// 2000-01-01: the calendar repeats after 400 years, and 29 February on each day of the week within 40.
const BEGINNING: Timestamp = Timestamp(946_684_800_000);

impl Timing {
    /// Reads a cron expression of five fields (minute, hour, day of month, month, day of week) or a nickname such as
    /// `@daily`, in a time zone.
    ///
    /// Shape: names of months and days, lists, ranges, steps, `L` (last), `#` (n-th weekday) and `W` (nearest weekday).
    /// Day of month and day of week are alternatives when both are given, as in Vixie cron; a `+` before the second
    /// asks for both. When clocks go forward, a fixed time within the gap is the first instant after it, and a
    /// wildcard hour or minute has nothing there; when they go back, a fixed time comes once, at the first of the two,
    /// and wildcards run through both hours.
    /// Errors: no such expression; one with seconds or years; one whose date never comes; an unknown zone.
    pub fn new(cron: &str, zone: &str) -> Result<Timing, TimingError> {
        let given = || crate::id::shorten(cron);
        let fields = cron.split_whitespace().count();
        let nickname = cron.trim_start().starts_with('@');
        if fields != 5 && !(nickname && fields == 1) {
            return Err(TimingError::Fields { given: given(), fields });
        }
        let zone = TimeZone::get(zone).map_err(|_| TimingError::Zone(crate::id::shorten(zone)))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let parsed = parser.parse(cron);
        let cron = parsed.map_err(|error| TimingError::Cron { given: given(), problem: words(error) })?;
        let timing = Timing { cron, zone };
        match timing.next(BEGINNING) {
            Some(_) => Ok(timing),
            None => Err(TimingError::Never { given: given() }),
        }
    }

    /// The first tick after a time; none beyond the years that a [`Timestamp`] can write.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = self.at(after)?;
        let found = self.cron.find_next_occurrence(&Moment(start), false).ok()?;
        let tick = Timestamp(found.0.timestamp().as_millisecond());
        // A step that does not go forward would be a defect of the search; it must not become an endless loop.
        (tick > after && tick <= Timestamp::MAX).then_some(tick)
    }

    /// All ticks after a time, in order.
    pub fn after(&self, start: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next(start), |tick| self.next(*tick))
    }

    /// A tick as its zone's clocks show it, such as `2026-03-29T03:00:00+02:00[Europe/Berlin]`.
    pub fn local(&self, tick: Timestamp) -> String {
        self.at(tick).map_or_else(|| tick.to_string(), |at| at.to_string())
    }

    fn at(&self, time: Timestamp) -> Option<ZonedDateTime> {
        let time = jiff::Timestamp::from_millisecond(time.0).ok()?;
        Some(ZonedDateTime::new(time, self.zone.clone()))
    }
}

/// The parser's complaint in our form.
fn words(error: CronError) -> String {
    let problem = match error {
        CronError::InvalidPattern(problem)
        | CronError::IllegalCharacters(problem)
        | CronError::ComponentError(problem) => problem,
        other => other.to_string(),
    };
    let mut letters = problem.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A moment as croner searches over it.
#[derive(Clone, Debug)]
struct Moment(ZonedDateTime);

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let at = self.0.datetime();
        CivilDateTime::from_ymd_hms_opt(
            i32::from(at.year()),
            at.month().unsigned_abs().into(),
            at.day().unsigned_abs().into(),
            at.hour().unsigned_abs().into(),
            at.minute().unsigned_abs().into(),
            at.second().unsigned_abs().into(),
        )
        .expect("jiff's dates are valid")
    }

    fn civil_weekday(&self) -> Weekday {
        use jiff::civil::Weekday as Day;
        match self.0.weekday() {
            Day::Sunday => Weekday::Sunday,
            Day::Monday => Weekday::Monday,
            Day::Tuesday => Weekday::Tuesday,
            Day::Wednesday => Weekday::Wednesday,
            Day::Thursday => Weekday::Thursday,
            Day::Friday => Weekday::Friday,
            Day::Saturday => Weekday::Saturday,
        }
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let ambiguous =
            self.0.time_zone().to_ambiguous_zoned_datetime(civil_of(civil).ok_or(CronError::InvalidTime)?);
        let taken =
            |zoned: Result<ZonedDateTime, jiff::Error>| zoned.map(Moment).map_err(|_| CronError::InvalidTime);
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(taken(ambiguous.unambiguous())?),
            AmbiguousOffset::Fold { .. } => {
                Resolution::Ambiguous(taken(ambiguous.clone().earlier())?, taken(ambiguous.later())?)
            }
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Moment)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

fn civil_of(civil: CivilDateTime) -> Option<DateTime> {
    let small = |number: u32| i8::try_from(number).ok();
    DateTime::new(
        i16::try_from(civil.year()).ok()?,
        small(civil.month())?,
        small(civil.day())?,
        small(civil.hour())?,
        small(civil.minute())?,
        small(civil.second())?,
        0,
    )
    .ok()
}
