//! Knows secrets by their form: the keys of providers and services, private keys, passwords in URLs, and values that are
//! called a secret and look like one.
//!
//! A finding names the kind and never shows more than the public beginning of a key. False alarms make people stop looking,
//! so every kind has a length, an alphabet and a bound on how regular it may be; samples in documents are passed over.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

/// A secret in a text: where it begins and of which kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub at: usize,
    pub kind: &'static str,
    /// The part that all keys of the kind share; safe to show.
    pub prefix: &'static str,
    /// So common in documents and tests that it counts in an application's own files and in the configuration only.
    pub only_own: bool,
}

impl Found {
    /// `an OpenAI key (sk-proj-…)`
    pub fn told(&self) -> String {
        match self.prefix {
            "" => self.kind.to_owned(),
            prefix => format!("{} ({prefix}…)", self.kind),
        }
    }
}

/// Bytes before and after a match that may decide about it: a stream's windows overlap by it.
pub const REACH: usize = 256;

struct Pattern {
    literal: &'static str,
    kind: &'static str,
    body: Body,
    only_own: bool,
}

/// What follows the literal.
enum Body {
    /// At least and at most so many characters of an alphabet, and then none of it.
    Run(Alphabet, usize, usize),
    /// Parts of an alphabet with lengths, joined by a byte.
    Parts(Alphabet, u8, &'static [(usize, usize)]),
    /// The literal stands in the middle: behind a beginning and so many characters, before so many and then none.
    Inside { before: (&'static str, Alphabet, usize), after: usize },
    /// The rest of a PEM header and then base64 in lines.
    Pem,
}

#[derive(Clone, Copy)]
enum Alphabet {
    Alnum,
    Url,
    Hex,
    Upper,
    Base64,
}

impl Alphabet {
    fn has(self, byte: u8) -> bool {
        match self {
            Alphabet::Alnum => byte.is_ascii_alphanumeric(),
            Alphabet::Url => byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-',
            Alphabet::Hex => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            Alphabet::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Alphabet::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='),
        }
    }
}

const fn run(
    literal: &'static str,
    kind: &'static str,
    alphabet: Alphabet,
    least: usize,
    most: usize,
) -> Pattern {
    Pattern { literal, kind, body: Body::Run(alphabet, least, most), only_own: false }
}

const PATTERNS: &[Pattern] = &[
    run("sk-proj-", "an OpenAI project key", Alphabet::Url, 40, 220),
    run("sk-svcacct-", "an OpenAI service account key", Alphabet::Url, 40, 220),
    run("sk-admin-", "an OpenAI admin key", Alphabet::Url, 40, 220),
    Pattern {
        literal: "T3BlbkFJ",
        kind: "an OpenAI key",
        body: Body::Inside { before: ("sk-", Alphabet::Alnum, 20), after: 20 },
        only_own: false,
    },
    run("sk-ant-", "an Anthropic key", Alphabet::Url, 60, 160),
    run("sk-or-v1-", "an OpenRouter key", Alphabet::Hex, 64, 64),
    run("hf_", "a Hugging Face token", Alphabet::Alnum, 34, 40),
    run("gsk_", "a Groq key", Alphabet::Alnum, 48, 60),
    run("AIza", "a Google API key", Alphabet::Url, 35, 35),
    run("xai-", "an xAI key", Alphabet::Alnum, 70, 100),
    run("pplx-", "a Perplexity key", Alphabet::Alnum, 44, 60),
    run("r8_", "a Replicate token", Alphabet::Alnum, 37, 40),
    run("tvly-", "a Tavily key", Alphabet::Url, 28, 60),
    run("nvapi-", "an NVIDIA key", Alphabet::Url, 60, 80),
    run("lsv2_pt_", "a LangSmith key", Alphabet::Url, 40, 50),
    run("lsv2_sk_", "a LangSmith key", Alphabet::Url, 40, 50),
    run("AKIA", "an AWS access key id", Alphabet::Upper, 16, 16),
    run("ASIA", "an AWS access key id", Alphabet::Upper, 16, 16),
    run("ghp_", "a GitHub token", Alphabet::Alnum, 36, 36),
    run("gho_", "a GitHub token", Alphabet::Alnum, 36, 36),
    run("ghs_", "a GitHub token", Alphabet::Alnum, 36, 36),
    run("ghu_", "a GitHub token", Alphabet::Alnum, 36, 36),
    Pattern {
        literal: "github_pat_",
        kind: "a GitHub token",
        body: Body::Parts(Alphabet::Alnum, b'_', &[(22, 22), (59, 59)]),
        only_own: false,
    },
    run("glpat-", "a GitLab token", Alphabet::Url, 20, 60),
    run("xoxb-", "a Slack token", Alphabet::Url, 30, 100),
    run("xoxp-", "a Slack token", Alphabet::Url, 30, 100),
    run("sk_live_", "a Stripe key", Alphabet::Alnum, 24, 120),
    run("rk_live_", "a Stripe key", Alphabet::Alnum, 24, 120),
    run("npm_", "an npm token", Alphabet::Alnum, 36, 36),
    run("pypi-AgEIcHlwaS5vcmc", "a PyPI token", Alphabet::Url, 50, 220),
    Pattern {
        literal: "SG.",
        kind: "a SendGrid key",
        body: Body::Parts(Alphabet::Url, b'.', &[(22, 22), (43, 43)]),
        only_own: false,
    },
    run("AccountKey=", "an Azure storage key", Alphabet::Base64, 88, 88),
    run("lsk_", "a longshore API key", Alphabet::Alnum, 43, 43),
    Pattern {
        literal: "lsw1.",
        kind: "a longshore worker token",
        body: Body::Parts(Alphabet::Url, b'.', &[(1, 40), (43, 43)]),
        only_own: false,
    },
    Pattern {
        literal: "eyJhbGciOi",
        kind: "a JSON web token",
        body: Body::Parts(Alphabet::Url, b'.', &[(5, 200), (20, 2000), (20, 700)]),
        only_own: true,
    },
    Pattern { literal: "PRIVATE KEY-----", kind: "a private key", body: Body::Pem, only_own: false },
];

static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .build(PATTERNS.iter().map(|pattern| pattern.literal))
        .expect("the patterns are few and short")
});

/// All known secrets in a text whose literal begins in `range`; what is around may decide about them.
pub fn find_in(text: &[u8], range: std::ops::Range<usize>) -> Vec<Found> {
    let from = range.start.min(text.len());
    let mut found: Vec<Found> = Vec::new();
    for hit in FINDER.find_overlapping_iter(&text[from..]) {
        let (start, end) = (from + hit.start(), from + hit.end());
        if start >= range.end {
            continue;
        }
        let pattern = &PATTERNS[hit.pattern().as_usize()];
        if let Some(at) = pattern.holds(text, start, end) {
            found.push(Found { at, kind: pattern.kind, prefix: pattern.shown(), only_own: pattern.only_own });
        }
    }
    found.sort_by_key(|found| (found.at, found.prefix.is_empty()));
    // A key may be known by two marks: the first, which says more, is kept.
    found.dedup_by(|later, earlier| later.at == earlier.at);
    found
}

pub fn find(text: &str) -> Vec<Found> {
    find_in(text.as_bytes(), 0..text.len())
}

impl Pattern {
    /// What may be shown of it: the beginning, where the literal is that.
    fn shown(&self) -> &'static str {
        match self.body {
            Body::Inside { .. } | Body::Pem => "",
            _ => self.literal,
        }
    }

    /// Where the secret begins, if this is one.
    fn holds(&self, text: &[u8], start: usize, end: usize) -> Option<usize> {
        let rest = &text[end..];
        match &self.body {
            Body::Run(alphabet, least, most) => {
                let length = length(rest, *alphabet, *most);
                let ends = rest.get(length).is_none_or(|byte| !alphabet.has(*byte) || length < *most);
                let body = &rest[..length];
                (begins(text, start) && length >= *least && ends && random(body)).then_some(start)
            }
            Body::Parts(alphabet, joint, parts) => {
                let mut at = 0;
                for (index, (least, most)) in parts.iter().enumerate() {
                    if index > 0 {
                        (rest.get(at) == Some(joint)).then_some(())?;
                        at += 1;
                    }
                    let length = length(&rest[at..], *alphabet, *most);
                    (length >= *least).then_some(())?;
                    at += length;
                }
                (begins(text, start) && random(&rest[..at])).then_some(start)
            }
            Body::Inside { before: (lead, alphabet, count), after } => {
                let begin = start.checked_sub(count + lead.len())?;
                let whole = text[begin..].starts_with(lead.as_bytes())
                    && text[start - count..start].iter().all(|byte| alphabet.has(*byte))
                    && length(rest, *alphabet, after + 1) == *after;
                (whole && begins(text, begin) && random(&text[begin..end + after])).then_some(begin)
            }
            Body::Pem => pem(text, start, rest),
        }
    }
}

fn length(text: &[u8], alphabet: Alphabet, most: usize) -> usize {
    text.iter().take(most).take_while(|byte| alphabet.has(**byte)).count()
}

/// `task_...` is not a key that begins with `sk_`.
fn begins(text: &[u8], start: usize) -> bool {
    start == 0 || !(text[start - 1].is_ascii_alphanumeric() || text[start - 1] == b'_')
}

/// A header is not a key: the key's lines have to follow it. Programs that read keys hold the header alone.
fn pem(text: &[u8], start: usize, rest: &[u8]) -> Option<usize> {
    let before = &text[start.saturating_sub(24)..start];
    let dashes = before.windows(11).rposition(|window| window == b"-----BEGIN ")?;
    let begin = start - before.len() + dashes;
    // Written in JSON or an ENV line, its line breaks are two characters.
    let rest = rest.strip_prefix(b"\\r").or(rest.strip_prefix(b"\r")).unwrap_or(rest);
    let mut body = rest.strip_prefix(b"\\n").or(rest.strip_prefix(b"\n")).or(rest.strip_prefix(b" "))?;
    // Old forms have headers of their own: `Proc-Type: 4,ENCRYPTED`.
    if body.starts_with(b"Proc-Type") {
        let blank = body.windows(2).position(|two| two == b"\n\n")?;
        body = &body[blank + 2..];
    }
    let line = length(body, Alphabet::Base64, 80);
    (line >= 40 && random(&body[..line])).then_some(begin)
}

/// Whether it could have been drawn by chance: no sample, no filler, no sentence.
fn random(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let lower = text.to_ascii_lowercase();
    const SAMPLES: [&str; 9] =
        ["example", "xxxx", "****", "0000000", "1234567890", "abcdefgh", "your", "placeholder", "dummy"];
    if SAMPLES.iter().any(|sample| lower.contains(sample)) {
        return false;
    }
    // Of 64 characters two are separators; many of them join words.
    if body.iter().filter(|byte| matches!(byte, b'-' | b'_')).count() > 2 + body.len() / 10 {
        return false;
    }
    // Letters of one case alone are words.
    let kinds: [fn(&u8) -> bool; 3] = [u8::is_ascii_lowercase, u8::is_ascii_uppercase, u8::is_ascii_digit];
    if kinds.iter().filter(|kind| body.iter().any(kind)).count() < 2 {
        return false;
    }
    // Sixteen letters have at most 4 bits each; keys come near what their length allows.
    let most = (body.len() as f64).log2().min(5.0);
    entropy(body) >= most * 0.72
}

/// Bits per byte.
pub fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    text.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let all = text.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / all)
        .map(|p| -p * p.log2())
        .sum()
}

/// Whether a name says that its value is secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['-', '.'], "_");
    const NAMES: [&str; 14] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "api_key",
        "apikey",
        "access_key",
        "private_key",
        "credential",
        "auth_key",
        "secret_key",
        "signing_key",
        "encryption_key",
    ];
    // What such names are about, and no secret: where it lies, how long it lives, how many there may be.
    const ABOUT: [&str; 16] = [
        "_file",
        "_path",
        "_url",
        "_name",
        "_ttl",
        "_type",
        "_dir",
        "_length",
        "_limit",
        "_budget",
        "_count",
        "_id",
        "_env",
        "_header",
        "tokens",
        "tokenizer",
    ];
    NAMES.iter().any(|part| name.contains(part))
        && !ABOUT.iter().any(|end| name.ends_with(end))
        && !name.contains("tokenizer")
        && !name.contains("max_token")
}

/// Whether the value of a name that says `secret` is none: empty, a reference, a filler.
pub fn is_filler(value: &str) -> bool {
    let value = value.trim().trim_matches(['"', '\'']);
    let lower = value.to_ascii_lowercase();
    const FILLERS: [&str; 16] = [
        "changeme",
        "change-me",
        "change_me",
        "none",
        "null",
        "nil",
        "true",
        "false",
        "todo",
        "example",
        "placeholder",
        "xxx",
        "dummy",
        "unset",
        "redacted",
        "your",
    ];
    value.len() < 4
        || value.starts_with(['$', '<', '{', '%', '/', '.'])
        || FILLERS.iter().any(|filler| lower.starts_with(filler))
        || lower.chars().all(|c| matches!(c, 'x' | '*' | '.' | '-' | '0'))
}

/// Whether a value in a file, whose name says `secret`, is one: long, mixed and of one word.
pub fn looks_secret(value: &str) -> bool {
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-.~!@#%^&*".contains(&byte));
    let digits = value.bytes().any(|byte| byte.is_ascii_digit());
    let letters = value.bytes().any(|byte| byte.is_ascii_alphabetic());
    value.len() >= 16 && plain && digits && letters && !is_filler(value) && random(value.as_bytes())
}

/// Whether a value without a telling name must be a secret by its entropy alone: long, of both cases and digits, no hash
/// (hexadecimal: those are public), no path, no words.
pub fn is_high_entropy(value: &str) -> bool {
    let has = |test: fn(&u8) -> bool| value.as_bytes().iter().any(&test);
    let one_word = value.bytes().all(|byte| Alphabet::Base64.has(byte) || byte == b'_' || byte == b'-');
    (32..=512).contains(&value.len())
        && one_word
        && value.matches('/').count() < 3
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && entropy(value.as_bytes()) >= 4.3
        && random(value.as_bytes())
}

/// A URL with a password in it: the part that may be shown, `postgres://user:…@host`.
pub fn password_in_url(text: &str) -> Option<String> {
    let mut from = 0;
    while let Some(at) = text[from..].find("://") {
        let (scheme_end, rest_at) = (from + at, from + at + 3);
        let rest = &text[rest_at..];
        let authority =
            rest.split(['/', '?', '#', ' ', '"', '\'', '\n', '\\', '`', ',', ')']).next().unwrap_or_default();
        if let Some((user, host)) = authority.rsplit_once('@')
            && let Some((name, password)) = user.split_once(':')
            && !host.is_empty()
            && !is_filler(password)
            && !password.contains(['{', '$', '%', '<'])
            && !matches!(password, "password" | "pass" | "pwd")
        {
            let scheme = text[..scheme_end].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+').next();
            return Some(format!("{}://{name}:…@{host}", scheme.unwrap_or_default()));
        }
        from = rest_at;
    }
    None
}

/// A text with every secret that is known by its form, and every value whose name says so, taken out.
pub fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            out.push(' ');
        }
        let named = word.split_once('=').filter(|(name, value)| is_secret_name(name) && !is_filler(value));
        if let Some((name, _)) = named {
            out.push_str(name);
            out.push_str("=[redacted]");
        } else if let Some(shown) = password_in_url(word) {
            out.push_str(&shown);
        } else if !find(word).is_empty() || is_high_entropy(word.rsplit('=').next().unwrap_or(word)) {
            out.push_str("[redacted]");
        } else {
            out.push_str(word);
        }
    }
    // A key of several words, such as PEM, is known in the whole only.
    if find(&out).is_empty() { out } else { "[redacted]".to_owned() }
}

#[cfg(test)]
mod tests;
