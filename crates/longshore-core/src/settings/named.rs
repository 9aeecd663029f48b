//! Tables whose keys are names, and the fleets that they refer to.

use super::section::{Section, nearest};
use crate::fleet::Fleet;
use crate::id::{FleetName, IdError};

/// Reads each table of a section under its name, in order; one with a bad name is reported and left out.
pub(super) fn read_all<N, T>(
    root: &mut Section<'_>,
    key: &'static str,
    expected: &str,
    parse: fn(String) -> Result<N, IdError>,
    read: impl Fn(Section<'_>, N) -> Option<T>,
) -> Vec<T> {
    let Some(mut named) = root.section(key) else { return Vec::new() };
    let mut all = Vec::new();
    for (name, node) in named.drain() {
        match parse(name.clone()) {
            Ok(parsed) => {
                all.extend(named.open(&name, node, expected).and_then(|section| read(section, parsed)))
            }
            Err(error) => named.error_in(node.key_place, &name, error.to_string()),
        }
    }
    all
}

/// A fleet by its name; it must be among the declared ones when those are known here.
pub(super) fn known_fleet(given: &str, fleets: Option<&[Fleet]>) -> Result<FleetName, String> {
    let name = FleetName::new(given).map_err(|error| error.to_string())?;
    let Some(fleets) = fleets else { return Ok(name) };
    if fleets.iter().any(|fleet| fleet.name == name) {
        return Ok(name);
    }
    let known: Vec<&str> = fleets.iter().map(|fleet| fleet.name.as_str()).collect();
    let hint = match (nearest(given, &known), &known[..]) {
        (Some(hint), _) => hint,
        (None, []) => "none is declared".into(),
        (None, known) => format!("declared are `{}`", known.join("`, `")),
    };
    Err(format!("there is no fleet `{name}`; {hint}"))
}
