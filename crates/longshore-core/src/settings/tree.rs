//! TOML as a tree whose every key and value knows where it was written.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Place, SettingsError};

pub(super) type Table = BTreeMap<String, Node>;

/// A value with the places of its key and of itself.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) key_place: Place,
    pub(super) place: Place,
    pub(super) value: Value,
    /// The text of an environment variable as it was, for settings that are strings anyway.
    pub(super) raw: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    /// Nothing that a setting could be: a date, a number beyond 64 bits.
    Other(&'static str),
}

/// Parses a file's text; every syntax error is reported, and nothing else when there is one.
pub(super) fn parse(text: &str, file_name: &str) -> Result<Table, Vec<SettingsError>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let places = Places::new(text, file_name);
    if errors.is_empty() {
        return Ok(table(root.into_inner(), &|span| places.at(span)));
    }
    let report = |error: toml::de::Error| SettingsError {
        place: places.at(error.span().unwrap_or(0..0)),
        key: String::new(),
        problem: format!("this is not valid TOML: {}", error.message().replace('\n', ", ")),
    };
    let mut errors: Vec<SettingsError> = errors.into_iter().map(report).collect();
    errors.sort();
    errors.dedup();
    Err(errors)
}

/// Takes a variable's text as a TOML value, or else as a string.
pub(super) fn variable(name: &str, text: &str) -> Node {
    let place = Place::Variable(name.to_owned());
    let value = match DeValue::parse(text) {
        Ok(parsed) => value(parsed.into_inner(), &|_| place.clone()),
        Err(_) => Value::Text(text.to_owned()),
    };
    Node { key_place: place.clone(), place, value, raw: Some(text.to_owned()) }
}

type At<'a> = &'a dyn Fn(Range<usize>) -> Place;

fn table(map: DeTable<'_>, at: At<'_>) -> Table {
    map.into_iter()
        .map(|(key, value)| {
            let key_place = at(key.span());
            (key.into_inner().into_owned(), node(value, key_place, at))
        })
        .collect()
}

fn node(spanned: Spanned<DeValue<'_>>, key_place: Place, at: At<'_>) -> Node {
    let place = at(spanned.span());
    Node { key_place, place, value: value(spanned.into_inner(), at), raw: None }
}

fn value(value: DeValue<'_>, at: At<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number that is too large"), Value::Integer),
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other("a number"), Value::Float),
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| node(item.clone(), at(item.span()), at)).collect())
        }
        DeValue::Table(map) => Value::Table(table(map, at)),
    }
}

/// Turns byte offsets of a text into lines and columns.
struct Places<'a> {
    text: &'a str,
    name: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(text: &'a str, name: &'a str) -> Places<'a> {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Places { text, name, line_starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    fn at(&self, span: Range<usize>) -> Place {
        let offset = span.start.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        let column = 1 + self.text.get(start..offset).map_or(0, |before| before.chars().count());
        Place::File { name: self.name.to_owned(), line, column }
    }
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }

    /// The value for an error about a setting that is no secret.
    pub(super) fn shown(&self) -> String {
        match self {
            Value::Text(text) if text.chars().count() <= 40 => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            // With an exponent where it would be long.
            Value::Float(number) => format!("{number:?}"),
            Value::Boolean(flag) => flag.to_string(),
            other => other.kind().to_owned(),
        }
    }
}
