//! Takes typed values out of one table and notes what is wrong with it.

use std::ops::RangeInclusive;

use super::tree::{Node, Table, Value};
use super::{Place, SettingsError, Warning};
use crate::fleet::SecretSource;
use crate::units;

#[derive(Default)]
pub(super) struct Notes {
    pub(super) errors: Vec<SettingsError>,
    pub(super) warnings: Vec<Warning>,
}

/// One table while it is read: what was taken is known, what is left at the end is not.
pub(super) struct Section<'n> {
    notes: &'n mut Notes,
    path: String,
    place: Place,
    table: Table,
    known: Vec<&'static str>,
    /// Where the keys that were there stood.
    places: Vec<(&'static str, Place)>,
}

impl<'n> Section<'n> {
    pub(super) fn root(table: Table, file_name: &str, notes: &'n mut Notes) -> Section<'n> {
        let place = Place::File { name: file_name.to_owned(), line: 1, column: 1 };
        Section { notes, path: String::new(), place, table, known: Vec::new(), places: Vec::new() }
    }

    /// The table under `key`, when there is one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'_>> {
        let node = self.take(key)?;
        self.open(key, node, "a table")
    }

    /// All tables in this one, by name; for tables whose keys are names.
    pub(super) fn drain(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    pub(super) fn open(&mut self, key: &str, node: Node, expected: &str) -> Option<Section<'_>> {
        let Node { key_place, place, value, .. } = node;
        let path = self.path_of(key);
        match value {
            Value::Table(table) => Some(Section {
                notes: &mut *self.notes,
                path,
                place: key_place,
                table,
                known: Vec::new(),
                places: Vec::new(),
            }),
            other => {
                self.error_in(place, key, format!("expected {expected}, found {}", other.kind()));
                None
            }
        }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let node = self.table.remove(key)?;
        self.places.push((key, node.place.clone()));
        Some(node)
    }

    pub(super) fn text(&mut self, key: &'static str, expected: &str) -> Option<String> {
        let node = self.take(key)?;
        match text_of(&node) {
            Some(text) => Some(text),
            None => self.wrong(&node, key, expected),
        }
    }

    pub(super) fn whole(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let node = self.take(key)?;
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match node.value {
            Value::Integer(number) => match u32::try_from(number) {
                Ok(number) if range.contains(&number) => Some(number),
                _ => self.wrong(&node, key, &expected),
            },
            _ => self.wrong(&node, key, &expected),
        }
    }

    /// A whole number that may be below zero.
    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<i32>) -> Option<i32> {
        let node = self.take(key)?;
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number = match node.value {
            Value::Integer(number) => i32::try_from(number).ok().filter(|number| range.contains(number)),
            _ => None,
        };
        number.or_else(|| self.wrong(&node, key, &expected))
    }

    /// A whole number, 1 or more.
    pub(super) fn count(&mut self, key: &'static str) -> Option<u64> {
        let node = self.take(key)?;
        match node.value {
            Value::Integer(number @ 1..) => Some(number.unsigned_abs()),
            _ => self.wrong(&node, key, "a whole number of at least 1"),
        }
    }

    /// The strings of an array, each with its place. An array that holds something else is none.
    pub(super) fn texts(&mut self, key: &'static str, expected: &str) -> Option<Vec<(String, Place)>> {
        let node = self.take(key)?;
        let Value::Array(items) = &node.value else { return self.wrong(&node, key, expected) };
        let mut texts = Vec::new();
        for item in items {
            match text_of(item) {
                Some(text) => texts.push((text, item.place.clone())),
                None => drop(self.wrong::<()>(item, key, "a string")),
            }
        }
        (texts.len() == items.len()).then_some(texts)
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        expected: &str,
        valid: fn(f64) -> bool,
    ) -> Option<f64> {
        let node = self.take(key)?;
        let number = match node.value {
            Value::Integer(number) => Some(number as f64),
            Value::Float(number) => Some(number),
            _ => None,
        };
        match number.filter(|number| number.is_finite() && valid(*number)) {
            Some(number) => Some(number),
            None => self.wrong(&node, key, expected),
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let node = self.take(key)?;
        match node.value {
            Value::Boolean(flag) => Some(flag),
            _ => self.wrong(&node, key, "true or false"),
        }
    }

    /// Milliseconds, more than zero.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<u64> {
        match self.duration_or_zero(key)? {
            0 => {
                self.error(key, "must be longer than 0s".into());
                None
            }
            ms => Some(ms),
        }
    }

    /// Milliseconds.
    pub(super) fn duration_or_zero(&mut self, key: &'static str) -> Option<u64> {
        let example = |number: i64| {
            format!("write \"{number}s\" for seconds, \"{number}m\" for minutes or \"{number}ms\"")
        };
        self.with_unit(key, "a duration such as \"90s\" or \"15m\"", example, units::parse_duration)
    }

    /// How long something is kept: milliseconds, or `None` for `"never"`, which is for ever.
    pub(super) fn kept(&mut self, key: &'static str) -> Option<Option<u64>> {
        let never = self.table.get(key).and_then(text_of).is_some_and(|text| text == "never");
        if never {
            self.take(key);
            return Some(None);
        }
        self.duration(key).map(Some)
    }

    /// Thousandths of a core.
    pub(super) fn cpu(&mut self, key: &'static str) -> Option<u32> {
        let node = self.take(key)?;
        let thousandths = match &node.value {
            Value::Integer(number) => Some(*number as f64 * 1000.0),
            Value::Float(number) => Some(number * 1000.0),
            Value::Text(text) => {
                text.strip_suffix('m').and_then(|number| number.parse::<u32>().ok()).map(f64::from)
            }
            _ => None,
        };
        let thousandths = thousandths.map(f64::round).filter(|amount| (1.0..=1e9).contains(amount));
        match thousandths {
            Some(amount) => Some(amount as u32),
            None => self.wrong(&node, key, "a number of cores such as 0.5 or \"500m\""),
        }
    }

    /// Bytes.
    pub(super) fn size(&mut self, key: &'static str) -> Option<u64> {
        let example =
            |number: i64| format!("write \"{number}B\" for bytes, \"{number}Ki\" or \"{number}Mi\"");
        self.with_unit(key, "a size such as \"512Ki\" or \"1Mi\"", example, units::parse_size)
    }

    fn with_unit(
        &mut self,
        key: &'static str,
        expected: &str,
        example: fn(i64) -> String,
        parse: fn(&str) -> Result<u64, units::UnitError>,
    ) -> Option<u64> {
        let node = self.take(key)?;
        match &node.value {
            Value::Integer(number) => {
                let problem = format!("{number} has no unit: {}", example(number.saturating_abs()));
                self.error(key, problem);
                None
            }
            Value::Text(text) => match parse(text) {
                Ok(amount) => Some(amount),
                Err(error) => {
                    self.error(key, error.to_string());
                    None
                }
            },
            _ => self.wrong(&node, key, expected),
        }
    }

    /// One of a few words; `later` are words of the design that this version cannot do yet.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        let node = self.take(key)?;
        let given = text_of(&node).unwrap_or_default();
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
            return Some(*value);
        }
        let offered: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let offered = offered.join(" or ");
        if later.contains(&given.as_str()) {
            self.error(key, format!("{given:?} comes with a later version; this one has {offered}"));
            return None;
        }
        self.wrong(&node, key, &offered)
    }

    /// `{ env = "NAME" }` or `{ file = "PATH" }`. The value is never shown: it may be the secret itself.
    pub(super) fn secret(&mut self, key: &'static str, base_dir: &str) -> Option<SecretSource> {
        let node = self.take(key)?;
        self.secret_in(key, node, base_dir)
    }

    pub(super) fn secret_in(&mut self, key: &str, node: Node, base_dir: &str) -> Option<SecretSource> {
        let place = node.place.clone();
        let mut source =
            self.open(key, node, "the secret's source, { env = \"NAME\" } or { file = \"PATH\" }")?;
        let env = source.secret_part("env", "the name of an environment variable");
        let file = source.secret_part("file", "a path");
        source.finish();
        match (env, file) {
            (Some(name), None) => Some(SecretSource::Env(name)),
            (None, Some(path)) => Some(SecretSource::File(super::resolve(base_dir, &path))),
            _ => {
                self.error_in(
                    place,
                    key,
                    "expected exactly one of { env = \"NAME\" } and { file = \"PATH\" }".into(),
                );
                None
            }
        }
    }

    fn secret_part(&mut self, key: &'static str, expected: &str) -> Option<String> {
        let node = self.take(key)?;
        let text = text_of(&node).filter(|text| !text.is_empty() && !text.contains('\0'));
        if text.is_none() {
            self.error(key, format!("expected {expected}"));
        }
        text
    }

    /// Keys that belong to the design and not yet to this version: accepted, with a warning.
    pub(super) fn later(&mut self, keys: &[&'static str]) {
        for key in keys {
            if let Some(node) = self.take(key) {
                let path = self.path_of(key);
                let problem = "not used yet: it comes with a later version".to_owned();
                self.notes.warnings.push(Warning { place: node.key_place, key: path, problem });
            }
        }
    }

    /// Whatever was not taken is unknown.
    pub(super) fn finish(mut self) {
        for (key, node) in self.drain() {
            let hint = nearest(&key, &self.known);
            let hint = hint.unwrap_or_else(|| format!("known are {}", listed(&self.known)));
            self.error_in(node.key_place, &key, format!("unknown key; {hint}"));
        }
    }

    pub(super) fn error(&mut self, key: &str, problem: String) {
        self.error_in(self.place_of(key), key, problem);
    }

    pub(super) fn error_in(&mut self, place: Place, key: &str, problem: String) {
        let key = self.path_of(key);
        self.notes.errors.push(SettingsError { place, key, problem });
    }

    /// About the whole table, where it begins.
    pub(super) fn error_here(&mut self, problem: String) {
        self.notes.errors.push(SettingsError { place: self.place.clone(), key: self.path.clone(), problem });
    }

    pub(super) fn warn(&mut self, key: &str, problem: &str) {
        self.warn_in(self.place_of(key), key, problem);
    }

    pub(super) fn warn_in(&mut self, place: Place, key: &str, problem: &str) {
        let key = self.path_of(key);
        self.notes.warnings.push(Warning { place, key, problem: problem.to_owned() });
    }

    pub(super) fn wrong<T>(&mut self, node: &Node, key: &str, expected: &str) -> Option<T> {
        let problem = format!("expected {expected}, found {}", node.value.shown());
        self.error_in(node.place.clone(), key, problem);
        None
    }

    pub(super) fn was_given(&self, key: &str) -> bool {
        self.places.iter().any(|(known, _)| *known == key)
    }

    /// Where `key` was written, or else where its section begins.
    fn place_of(&self, key: &str) -> Place {
        let found = self.places.iter().find(|(known, _)| *known == key);
        found.map_or_else(|| self.place.clone(), |(_, place)| place.clone())
    }

    fn path_of(&self, key: &str) -> String {
        let key = super::print::key(key);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

/// A string; a variable's text is one even if it looks like something else.
pub(super) fn text_of(node: &Node) -> Option<String> {
    match (&node.value, &node.raw) {
        (Value::Text(text), _) | (_, Some(text)) => Some(text.clone()),
        _ => None,
    }
}

/// "did you mean …", when one of the known names is near.
pub(super) fn nearest(given: &str, known: &[&str]) -> Option<String> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    let distance = |name: &&str| strsim::damerau_levenshtein(&given, &name.replace('-', "_"));
    let best = known.iter().min_by_key(|name| distance(name))?;
    let begins = |long: &str, short: &str| short.len() >= 3 && long.starts_with(short);
    let near = distance(best) <= (best.len() / 3).max(1) || begins(best, &given) || begins(&given, best);
    near.then(|| format!("did you mean `{best}`?"))
}

fn listed(known: &[&str]) -> String {
    let mut known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    known.sort();
    known.join(", ")
}
