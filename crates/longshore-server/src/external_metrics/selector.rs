//! Label selectors as autoscalers send them: which fleets they pick.

use std::collections::BTreeSet;

use longshore_core::id::FleetName;

/// The one label that metrics have.
pub const FLEET: &str = "fleet";

/// What a fleet's name has to be; nothing: it may be any.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<BTreeSet<String>>);

impl Selector {
    /// Reads `fleet=a`, `fleet==a` and `fleet in (a, b)`, several with commas between them. Errors: what is not understood.
    pub fn read(text: &str) -> Result<Selector, String> {
        let mut all = Vec::new();
        for part in split(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            all.push(requirement(part).ok_or_else(|| {
                format!("`{part}` is not understood in a label selector: expected `{FLEET}=NAME` or `{FLEET} in (NAME, NAME)`")
            })?);
        }
        Ok(Selector(all))
    }

    pub fn picks(&self, fleet: &FleetName) -> bool {
        self.0.iter().all(|names| names.contains(fleet.as_str()))
    }
}

/// At commas that are not inside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn requirement(part: &str) -> Option<BTreeSet<String>> {
    let rest = part.strip_prefix(FLEET)?;
    let inside = rest.trim().strip_prefix("in").filter(|_| rest.starts_with(' '));
    if let Some(list) = inside.and_then(|list| list.trim().strip_prefix('(')?.strip_suffix(')')) {
        return list.split(',').map(value).collect();
    }
    let given = rest.trim().strip_prefix("==").or_else(|| rest.trim().strip_prefix('='))?;
    Some([value(given)?].into())
}

fn value(text: &str) -> Option<String> {
    let text = text.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!text.is_empty() && text.chars().all(good)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, picked: &str) {
        let read = Selector::read(selector).expect("understood");
        let fleets = ["a", "b", "c-1"].map(|name| FleetName::new(name).expect("valid"));
        let names: Vec<_> = fleets.iter().filter(|name| read.picks(name)).map(FleetName::as_str).collect();
        assert_eq!(names.join(" "), picked, "{selector}");
    }

    #[test]
    fn a_selector_picks_fleets_by_name() {
        check("fleet=a", "a");
        check("fleet==a", "a");
        check(" fleet = c-1 ", "c-1");
        check("fleet in (a,b)", "a b");
        check("fleet in ( b , c-1 )", "b c-1");
        check("fleet in (a,b),fleet=b", "b");
        check("fleet=a,fleet=b", "");
        check("fleet=unknown", "");
        check("", "a b c-1");
    }

    #[test]
    fn what_is_not_understood_is_said_and_never_taken_for_all() {
        for wrong in [
            "fleet",
            "!fleet",
            "fleet!=a",
            "fleet notin (a)",
            "fleet in a",
            "fleet in (a",
            "fleet in ()",
            "fleet=",
            "fleets=a",
            "app=a",
            "fleet=a b",
            "fleetin (a)",
            "fleet>1",
            "fleet=a,app=b",
            "fleet===a",
        ] {
            assert!(Selector::read(wrong).is_err(), "{wrong}");
        }
    }
}
