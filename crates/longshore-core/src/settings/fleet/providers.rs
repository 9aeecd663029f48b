//! Reads which providers a fleet's LLM calls go to, and what the gateway therefore sets for its agents.

use super::super::section::{Section, nearest};
use super::super::tree::Node;
use crate::provider::Provider;

const EXPECTED: &str = "an array of names such as providers = [\"openai\"], or [] for none";

/// The providers that a fleet's calls go to, in its order.
pub(super) struct Gateway<'a>(Vec<&'a Provider>);

/// All of them when the fleet says nothing.
pub(super) fn read<'a>(section: &mut Section<'_>, declared: &'a [Provider]) -> Gateway<'a> {
    let listed = section.texts("providers", EXPECTED);
    if !section.was_given("providers") {
        return Gateway(declared.iter().collect());
    }
    let mut chosen: Vec<&Provider> = Vec::new();
    for (name, place) in listed.unwrap_or_default() {
        let known = declared.iter().find(|provider| provider.name.as_str() == name);
        let problem = match known {
            None => no_provider(&name, declared),
            Some(provider) if chosen.contains(&provider) => format!("`{name}` is listed twice"),
            Some(provider) => {
                chosen.push(provider);
                continue;
            }
        };
        section.error_in(place, "providers", problem);
    }
    Gateway(chosen)
}

fn no_provider(given: &str, declared: &[Provider]) -> String {
    let known: Vec<&str> = declared.iter().map(|provider| provider.name.as_str()).collect();
    let shown: String = given.chars().take(40).collect();
    let hint = match (nearest(given, &known), &known[..]) {
        (Some(hint), _) => hint,
        (None, []) => "none is declared: add a table such as [provider.openai]".into(),
        (None, known) => format!("declared are `{}`", known.join("`, `")),
    };
    format!("there is no provider `{shown}`; {hint}")
}

impl Gateway<'_> {
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|provider| provider.name.to_string()).collect()
    }

    /// Says so where a fleet declares a variable that the gateway sets.
    pub(super) fn warn_of(&self, section: &mut Section<'_>, variable: &str, node: &Node) {
        let sets = |provider: &&&Provider| provider.kind.variables().contains(&variable);
        if let Some(provider) = self.0.iter().find(sets) {
            let problem = format!(
                "the gateway sets this variable for provider `{}`; what is declared here is not used; \
                 `providers = []` keeps calls out of the gateway",
                provider.name
            );
            section.warn_in(node.key_place.clone(), variable, &problem);
        }
    }
}
