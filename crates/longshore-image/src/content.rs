//! Reads the contents of one file as a stream and says what of it should not be in an image.

use std::io::{self, Read};

use crate::baked;
use crate::finding::Code;
use crate::limits::Limits;
use crate::paths::{self, Owner, Text};
use crate::secret::{self, Found, REACH};

/// Something in a file, at a line where lines are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub code: Code,
    pub line: Option<u32>,
    pub what: String,
}

/// Bytes that are looked at in one go.
const WINDOW: usize = 256 << 10;

/// A file in which everything looks like a secret says no more than one in which a few things do.
const MOST: usize = 20;

/// Reads to the end of the file. An error is one of reading.
pub fn scan(path: &str, size: u64, from: &mut impl Read, limits: &Limits) -> io::Result<Vec<Hit>> {
    let own = paths::owner(path) == Owner::Own;
    let kind = paths::text(path).filter(|_| own && size <= limits.text);
    let mut hits = match kind {
        Some(kind) => {
            let mut bytes = Vec::with_capacity(size as usize);
            from.take(limits.text).read_to_end(&mut bytes)?;
            if bytes.contains(&0) { stream(&mut bytes.as_slice(), own)? } else { lines(&bytes, kind) }
        }
        None => stream(from, own)?,
    };
    if paths::is_sample(path) {
        hits.retain(|hit| !hit.what.contains("private key"));
    }
    hits.truncate(MOST);
    Ok(hits)
}

/// Windows that overlap, so that a key across their border is seen once and whole.
fn stream(from: &mut impl Read, own: bool) -> io::Result<Vec<Hit>> {
    let mut buffer = vec![0; WINDOW + 2 * REACH];
    let (mut filled, mut begin) = (0, 0);
    let mut hits: Vec<Hit> = Vec::new();
    loop {
        let read = fill(from, &mut buffer[filled..])?;
        filled += read;
        let last = filled < buffer.len();
        let end = if last { filled } else { filled - REACH };
        for found in secret::find_in(&buffer[..filled], begin..end) {
            if (own || !found.only_own) && hits.len() < MOST {
                hits.push(hit(&found, None));
            }
        }
        if last {
            // The same kind many times in one binary is one thing to look at.
            hits.dedup();
            return Ok(hits);
        }
        let keep = end - REACH;
        buffer.copy_within(keep..filled, 0);
        (filled, begin) = (filled - keep, REACH);
    }
}

fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn hit(found: &Found, line: Option<u32>) -> Hit {
    Hit { code: Code::SecretInFile, line, what: found.told() }
}

fn lines(bytes: &[u8], kind: Text) -> Vec<Hit> {
    let mut hits = Vec::new();
    let mut at_line = LineCounter { bytes, at: 0, line: 1 };
    for found in secret::find_in(bytes, 0..bytes.len()) {
        hits.push(hit(&found, Some(at_line.of(found.at))));
    }
    let text = String::from_utf8_lossy(bytes);
    for (index, line) in text.lines().enumerate() {
        let number = index as u32 + 1;
        let trimmed = line.trim();
        if trimmed.starts_with('#') || trimmed.starts_with("//") {
            continue;
        }
        let known = hits.iter().any(|hit| hit.line == Some(number) && hit.code == Code::SecretInFile);
        if !known && let Some(what) = secret_in_line(trimmed) {
            hits.push(Hit { code: Code::SecretInFile, line: Some(number), what });
        }
        if let Some(model) = baked::model_in(trimmed, kind == Text::Settings) {
            hits.push(Hit {
                code: Code::ModelInFile,
                line: Some(number),
                what: format!("the model `{model}`"),
            });
        }
        if let Some(url) = baked::url_in(trimmed, kind == Text::Settings, false) {
            hits.push(Hit {
                code: Code::UrlInFile,
                line: Some(number),
                what: format!("the address `{url}`"),
            });
        }
    }
    hits
}

/// Counts on from the last place, since places come in order.
struct LineCounter<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl LineCounter<'_> {
    fn of(&mut self, at: usize) -> u32 {
        if at >= self.at {
            self.line += self.bytes[self.at..at].iter().filter(|byte| **byte == b'\n').count() as u32;
            self.at = at;
        }
        self.line
    }
}

/// `NAME = "value"` whose name says secret and whose value looks like one, or a URL with a password.
fn secret_in_line(line: &str) -> Option<String> {
    if let Some(shown) = secret::password_in_url(line) {
        return Some(format!("a password in a URL ({shown})"));
    }
    let at = line.find(['=', ':'])?;
    let name = line[..at].trim().trim_matches(['"', '\'']);
    let name = name.rsplit([' ', '.', '[', '(', '{', ',', '\t']).next()?.trim_matches(['"', '\'', ']']);
    let value = line[at + 1..].trim().trim_start_matches('=').trim().trim_end_matches([',', ';', ')']).trim();
    let value = value.trim_matches(['"', '\'']);
    (secret::is_secret_name(name) && secret::looks_secret(value))
        .then(|| format!("the value of `{name}` looks like a secret"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANCE: &str = "q7Rk2ZpV9xTb4LmW8cYd1NfGs6HjUe3AoKiXuM5EvBt0QzPrDyCnSwFhJgOlIa7R2kVx9Zq4TbWm8LcY";

    fn told(path: &str, contents: &[u8]) -> Vec<String> {
        let hits = scan(path, contents.len() as u64, &mut &*contents, &Limits::default()).expect("in memory");
        hits.iter().map(|hit| format!("{}:{} {}", hit.code, hit.line.unwrap_or(0), hit.what)).collect()
    }

    #[test]
    fn an_agents_program_is_read_by_lines() {
        let text = format!(
            "import os\nKEY = 'gsk_{}'\nMODEL = \"gpt-5-mini\"\n# gpt-4 was worse\nBASE = 'https://api.openai.com/v1'\n\
             db_password = 'h8Kq2mZ7pL4vX9wR'\ntoken = os.environ['SERVICE_TOKEN_VALUE_2']\n",
            &CHANCE[..52]
        );
        assert_eq!(
            told("agent/agent.py", text.as_bytes()),
            [
                "secret_in_file:2 a Groq key (gsk_…)",
                "model_in_file:3 the model `gpt-5-mini`",
                "url_in_file:5 the address `https://api.openai.com`",
                "secret_in_file:6 the value of `db_password` looks like a secret",
            ]
        );
    }

    #[test]
    fn a_library_may_name_models_but_hold_no_key() {
        let text = format!(
            "MODELS = ['gpt-4o']\nBASE = 'https://api.openai.com/v1'\nkey = 'hf_{}'\n",
            &CHANCE[..34]
        );
        let path = "venv/lib/python3.13/site-packages/openai/x.py";
        assert_eq!(told(path, text.as_bytes()), ["secret_in_file:0 a Hugging Face token (hf_…)"]);
    }

    #[test]
    fn a_key_across_the_border_of_two_windows_is_seen_once() {
        let key = format!(" sk-ant-{} ", &CHANCE[..80]);
        for before in [WINDOW - 20, WINDOW + REACH - 40, WINDOW + 2 * REACH - 10, 2 * WINDOW + REACH - 60] {
            let mut bytes = vec![b' '; before];
            bytes.extend_from_slice(key.as_bytes());
            bytes.resize(before + WINDOW, b' ');
            assert_eq!(
                told("usr/bin/x", &bytes),
                ["secret_in_file:0 an Anthropic key (sk-ant-…)"],
                "{before}"
            );
        }
    }

    #[test]
    fn keys_in_tests_of_libraries_are_samples() {
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n", &CHANCE[..64]);
        assert_eq!(told("usr/lib/python3/test/key.pem", pem.as_bytes()), Vec::<String>::new());
        assert_eq!(told("app/tests/key.pem", pem.as_bytes()), ["secret_in_file:0 a private key"]);
    }
}
