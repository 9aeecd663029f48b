//! Faults on request: on which calls, what goes wrong, and how often.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::draw::Draw;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    pub on: Match,
    pub what: What,
    pub times: u32,
}

/// On which calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    Every,
    /// From the n-th call on, counted from 1 since the faults were set.
    Nth(u64),
    /// The body holds this text.
    Body(String),
    Model(String),
    /// This share of calls, drawn from the seed, the request and how often it came.
    Rate(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An error in the provider's own words.
    Status {
        status: u16,
        #[serde(default)]
        retry_after_ms: Option<u64>,
    },
    /// Anthropic's 529 `overloaded_error`; OpenAI's 503.
    Overloaded,
    /// The request was read; the connection is closed without an answer.
    DropBeforeHead,
    DropMidStream {
        after_chunks: usize,
    },
    /// An error event inside a stream that began well; an answer that is no stream is a 500.
    ErrorEventMidStream {
        after_chunks: usize,
    },
    /// The head at once, the first token so much later.
    SlowFirstToken {
        ms: u64,
    },
    /// Sends no more, and keeps the connection open.
    Stall {
        after_chunks: usize,
    },
    /// Status 200 with a web page, as proxies do.
    Html,
    /// The head promises more than follows.
    WrongContentLength,
    /// 256 MiB of padding in one endless line, then the connection is closed.
    EndlessChunks,
    /// Half of an event, or of a JSON body, where a whole one belongs.
    MalformedSse,
    MissingUsage,
    /// Encoded though nobody asked for it.
    Gzip,
    /// A stream that ends well, but without its finishing events; other answers are not touched.
    NoFinish,
    /// Everything so much later.
    LateAnswer {
        ms: u64,
    },
}

impl Fault {
    /// As often as it matches.
    pub const ALWAYS: u32 = u32::MAX;

    /// Happens once; a rate, always.
    pub fn new(on: Match, what: What) -> Fault {
        let times = if matches!(on, Match::Rate(_)) { Fault::ALWAYS } else { 1 };
        Fault { on, what, times }
    }

    pub fn times(mut self, times: u32) -> Fault {
        self.times = times;
        self
    }
}

/// Why a text is not a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    #[error("`{0}` is not part of a fault; a fault is such as `nth=3,status=500` or `rate=0.1,overloaded`")]
    Unknown(String),
    #[error("`{0}` has a value that it cannot have")]
    Value(String),
    #[error("a fault says once on which calls it is, and `{0}` is too much")]
    TwoMatches(String),
    #[error("a fault says one thing that goes wrong, and `{0}` is too much")]
    TwoThings(String),
    #[error("the fault does not say what goes wrong")]
    Nothing,
    #[error("`retry-after-ms` goes with `status` only")]
    RetryAfter,
}

/// `MATCH,WHAT[,retry-after-ms=MS][,times=N]`, in any order; without a match it is every call.
impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Fault, FaultError> {
        let (mut on, mut what, mut times, mut retry) = (None, None, None, None);
        for part in text.split(',').map(str::trim) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if let Some(found) = matcher(key, value, part)? {
                if on.replace(found).is_some() {
                    return Err(FaultError::TwoMatches(part.to_owned()));
                }
            } else if let Some(found) = thing(key, value, part)? {
                if what.replace(found).is_some() {
                    return Err(FaultError::TwoThings(part.to_owned()));
                }
            } else {
                match key {
                    "times" if value == "always" => times = Some(Fault::ALWAYS),
                    "times" => times = Some(number(value, part)?),
                    "retry-after-ms" => retry = Some(number(value, part)?),
                    _ => return Err(FaultError::Unknown(part.to_owned())),
                }
            }
        }
        let what = with_retry(what.ok_or(FaultError::Nothing)?, retry)?;
        let fault = Fault::new(on.unwrap_or(Match::Every), what);
        Ok(match times {
            Some(times) => fault.times(times),
            None => fault,
        })
    }
}

fn matcher(key: &str, value: &str, part: &str) -> Result<Option<Match>, FaultError> {
    Ok(Some(match key {
        "every" => Match::Every,
        "nth" => Match::Nth(number(value, part)?),
        "body" if !value.is_empty() => Match::Body(value.to_owned()),
        "model" if !value.is_empty() => Match::Model(value.to_owned()),
        "rate" => Match::Rate(number(value, part).and_then(|rate| match rate {
            0.0..=1.0 => Ok(rate),
            _ => Err(FaultError::Value(part.to_owned())),
        })?),
        _ => return Ok(None),
    }))
}

fn thing(key: &str, value: &str, part: &str) -> Result<Option<What>, FaultError> {
    let after = || number(value, part);
    let ms = || number(value, part);
    Ok(Some(match key {
        "status" => What::Status { status: status(value, part)?, retry_after_ms: None },
        "overloaded" => What::Overloaded,
        "drop-before-head" => What::DropBeforeHead,
        "drop-mid-stream" => What::DropMidStream { after_chunks: after()? },
        "error-event" => What::ErrorEventMidStream { after_chunks: after()? },
        "slow-first-token-ms" => What::SlowFirstToken { ms: ms()? },
        "stall" => What::Stall { after_chunks: after()? },
        "html" => What::Html,
        "wrong-content-length" => What::WrongContentLength,
        "endless-chunks" => What::EndlessChunks,
        "malformed-sse" => What::MalformedSse,
        "missing-usage" => What::MissingUsage,
        "gzip" => What::Gzip,
        "no-finish" => What::NoFinish,
        "late-answer-ms" => What::LateAnswer { ms: ms()? },
        _ => return Ok(None),
    }))
}

fn with_retry(what: What, retry: Option<u64>) -> Result<What, FaultError> {
    match (what, retry) {
        (What::Status { status, .. }, retry_after_ms) => Ok(What::Status { status, retry_after_ms }),
        (what, None) => Ok(what),
        (_, Some(_)) => Err(FaultError::RetryAfter),
    }
}

fn status(value: &str, part: &str) -> Result<u16, FaultError> {
    number(value, part).and_then(|status| match status {
        400..=599 => Ok(status),
        _ => Err(FaultError::Value(part.to_owned())),
    })
}

fn number<T: FromStr>(value: &str, part: &str) -> Result<T, FaultError> {
    value.parse().map_err(|_| FaultError::Value(part.to_owned()))
}

/// A fault in JSON: an object, or the same text as on the command line.
impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fault, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Object(Object),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Object {
            on: Option<Match>,
            what: What,
            times: Option<u32>,
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
            Written::Object(Object { what: What::Status { status, .. }, .. })
                if !(400..=599).contains(&status) =>
            {
                Err(serde::de::Error::custom("the status of a fault lies between 400 and 599"))
            }
            Written::Object(object) => {
                let fault = Fault::new(object.on.unwrap_or(Match::Every), object.what);
                Ok(match object.times {
                    Some(times) => fault.times(times),
                    None => fault,
                })
            }
        }
    }
}

/// What a fault may match on.
pub(crate) struct Facts<'a> {
    pub(crate) seed: u64,
    pub(crate) digest: &'a Digest,
    /// How often this request has arrived.
    pub(crate) received: u64,
    pub(crate) model: &'a str,
    pub(crate) body: &'a [u8],
}

/// The faults that are set, and what has happened since.
#[derive(Default)]
pub(crate) struct Armed(Mutex<Set>);

#[derive(Default)]
struct Set {
    calls: u64,
    faults: Vec<(Fault, u32)>,
}

impl Armed {
    /// Replaces all faults and counts calls anew.
    pub(crate) fn set(&self, faults: Vec<Fault>) {
        let faults = faults.into_iter().map(|fault| (fault, 0)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Set { calls: 0, faults };
    }

    /// What goes wrong with this call: the first fault that matches and is not used up.
    pub(crate) fn next(&self, facts: &Facts<'_>) -> Option<What> {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.calls += 1;
        let call = set.calls;
        let (fault, used) =
            set.faults.iter_mut().find(|(fault, used)| *used < fault.times && fault.matches(facts, call))?;
        *used += 1;
        Some(fault.what)
    }
}

impl Fault {
    fn matches(&self, facts: &Facts<'_>, call: u64) -> bool {
        match &self.on {
            Match::Every => true,
            Match::Nth(nth) => {
                call >= *nth && (self.times == Fault::ALWAYS || call - nth < u64::from(self.times))
            }
            Match::Body(text) => memchr::memmem::find(facts.body, text.as_bytes()).is_some(),
            Match::Model(model) => model == facts.model,
            Match::Rate(rate) => {
                // By how often the request came, too: a retry may fare better.
                let mut draw = Draw::new(facts.seed.wrapping_add(facts.received), facts.digest, "fault");
                draw.unit() < *rate
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Fault {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_grammar_says_match_what_and_how_often() {
        let status = |status, retry_after_ms| What::Status { status, retry_after_ms };
        assert_eq!(read("nth=3,status=500"), Fault::new(Match::Nth(3), status(500, None)));
        assert_eq!(
            read("status=429, retry-after-ms=20, body=Oslo, times=2"),
            Fault::new(Match::Body("Oslo".into()), status(429, Some(20))).times(2)
        );
        assert_eq!(read("rate=0.1,html").times, Fault::ALWAYS);
        assert_eq!(read("stall=2,times=always").on, Match::Every);
    }

    #[test]
    fn what_is_no_fault_is_told_with_its_part() {
        for (text, part) in [
            ("", "``"),
            ("nth=3", "does not say"),
            ("nth=x,html", "`nth=x`"),
            ("rate=2,html", "`rate=2`"),
            ("rate=NaN,html", "`rate=NaN`"),
            ("status=200", "`status=200`"),
            ("nth=1,model=m,html", "`model=m`"),
            ("html,gzip", "`gzip`"),
            ("html,retry-after-ms=5", "retry-after-ms"),
            ("htlm", "`htlm`"),
            ("stall", "`stall`"),
        ] {
            let error = text.parse::<Fault>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn json_and_the_grammar_say_the_same() {
        let listed = r#"["nth=2,drop-mid-stream=3", {"on": {"nth": 2}, "what": {"drop_mid_stream": {"after_chunks": 3}}}]"#;
        let faults: Vec<Fault> = serde_json::from_str(listed).unwrap();
        assert_eq!(faults[0], faults[1]);
        let written = serde_json::to_string(&faults).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Fault>>(&written).unwrap(), faults);
        assert!(serde_json::from_str::<Fault>(r#"{"what": {"status": {"status": 99}}}"#).is_err());
        assert!(serde_json::from_str::<Fault>(r#"{"what": "html", "time": 3}"#).is_err());
    }

    /// For ten calls of the same request, which of them go wrong.
    fn check(faults: &str, body: &str, wrong: &[u64]) {
        let armed = Armed::default();
        armed.set(faults.split(';').map(read).collect());
        let digest = Digest::of(body.as_bytes());
        let hit = |received| {
            let facts = Facts { seed: 1, digest: &digest, received, model: "m", body: body.as_bytes() };
            armed.next(&facts).is_some()
        };
        let found: Vec<u64> = (1..=10).filter(|call| hit(*call)).collect();
        assert_eq!(found, wrong, "{faults}");
    }

    #[test]
    fn calls_are_counted_and_faults_used_up() {
        check("nth=3,html", "", &[3]);
        check("nth=3,html,times=2", "", &[3, 4]);
        check("nth=8,html,times=always", "", &[8, 9, 10]);
        check("body=Oslo,html", "in Oslo", &[1]);
        check("body=Oslo,html", "in Bergen", &[]);
        check("model=m,html,times=2", "", &[1, 2]);
        check("model=n,html", "", &[]);
        check("nth=2,html;nth=2,gzip,times=2", "", &[2, 3]);
        check("rate=1,html", "", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        check("rate=0,html", "", &[]);
    }

    #[test]
    fn a_rate_hits_its_share_and_the_same_requests_again() {
        let hits = || -> Vec<bool> {
            let armed = Armed::default();
            armed.set(vec![read("rate=0.3,html")]);
            let digests = (0..2000u32).map(|number| Digest::of(&number.to_le_bytes()));
            digests
                .map(|digest| {
                    let facts = Facts { seed: 1, digest: &digest, received: 1, model: "m", body: b"" };
                    armed.next(&facts).is_some()
                })
                .collect()
        };
        let share = hits().iter().filter(|hit| **hit).count();
        assert!((520..680).contains(&share), "{share} of 2000");
        assert_eq!(hits(), hits());
    }
}
