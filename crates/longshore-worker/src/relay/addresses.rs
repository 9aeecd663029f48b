//! Where agents find the relay: the variables that LLM clients read.

use std::collections::BTreeMap;

use longshore_api::link::ProviderSeen;
use longshore_api::llm::PREFIX;

use super::dialect::Dialect;

/// Begins the relay's own key, so that nobody takes it for a provider's.
const KEY: &str = "lsr1.";

pub struct Addresses {
    /// `http://127.0.0.1:40213`
    url: String,
    /// What an http agent's environment holds in place of a task's token: it opens nothing by itself.
    key: String,
    pub providers: Vec<ProviderSeen>,
}

impl Addresses {
    pub fn new(port: u16, providers: Vec<ProviderSeen>) -> Addresses {
        let key = format!("{KEY}{:032x}", rand::random::<u128>());
        Addresses { url: format!("http://127.0.0.1:{port}"), key, providers }
    }

    /// The variables for one task, with its token as the key of every provider.
    pub fn of_task(&self, token: &str) -> BTreeMap<String, String> {
        self.variables(token)
    }

    /// The variables for a process that serves many tasks.
    pub fn of_process(&self) -> BTreeMap<String, String> {
        self.variables(&self.key)
    }

    fn variables(&self, key: &str) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::from([("LONGSHORE_URL".to_owned(), self.url.clone())]);
        for provider in &self.providers {
            self.name(&mut variables, provider, &shouted(&provider.name), key);
        }
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            // A provider of that very name comes before the first of the kind.
            let Some(first) = self.providers.iter().find(|provider| Dialect::of(&provider.kind) == dialect)
            else {
                continue;
            };
            match dialect {
                Dialect::OpenAi => {
                    self.name(&mut variables, first, "OPENAI", key);
                    if let Some(url) = variables.get("OPENAI_BASE_URL").cloned() {
                        variables.insert("OPENAI_API_BASE".to_owned(), url);
                    }
                }
                Dialect::Anthropic => self.name(&mut variables, first, "ANTHROPIC", key),
            }
        }
        variables
    }

    fn name(
        &self,
        variables: &mut BTreeMap<String, String>,
        provider: &ProviderSeen,
        as_name: &str,
        key: &str,
    ) {
        let base = format!("{}{PREFIX}{}{}", self.url, provider.name, Dialect::of(&provider.kind).base());
        variables.entry(format!("{as_name}_BASE_URL")).or_insert(base);
        variables.entry(format!("{as_name}_API_KEY")).or_insert_with(|| key.to_owned());
    }
}

/// A name as environment variables are written.
fn shouted(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(providers: &[(&str, &str)], expected: &[(&str, &str)]) {
        let seen = |(name, kind): &(&str, &str)| ProviderSeen { name: (*name).into(), kind: (*kind).into() };
        let addresses = Addresses::new(1, providers.iter().map(seen).collect());
        let variables = addresses.of_task("t");
        let found: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
    }

    const URL: (&str, &str) = ("LONGSHORE_URL", "http://127.0.0.1:1");

    #[test]
    fn each_provider_has_its_variables_and_the_first_of_a_kind_those_that_clients_read() {
        check(&[], &[URL]);
        check(
            &[("azure-eu", "openai"), ("claude", "anthropic")],
            &[
                ("ANTHROPIC_API_KEY", "t"),
                ("ANTHROPIC_BASE_URL", "http://127.0.0.1:1/llm/claude"),
                ("AZURE_EU_API_KEY", "t"),
                ("AZURE_EU_BASE_URL", "http://127.0.0.1:1/llm/azure-eu/v1"),
                ("CLAUDE_API_KEY", "t"),
                ("CLAUDE_BASE_URL", "http://127.0.0.1:1/llm/claude"),
                URL,
                ("OPENAI_API_BASE", "http://127.0.0.1:1/llm/azure-eu/v1"),
                ("OPENAI_API_KEY", "t"),
                ("OPENAI_BASE_URL", "http://127.0.0.1:1/llm/azure-eu/v1"),
            ],
        );
    }

    #[test]
    fn a_providers_own_name_comes_before_the_first_of_the_kind() {
        let addresses = Addresses::new(
            1,
            ["local", "openai"].map(|name| ProviderSeen { name: name.into(), kind: "openai".into() }).into(),
        );
        let variables = addresses.of_process();
        assert_eq!(variables["OPENAI_BASE_URL"], "http://127.0.0.1:1/llm/openai/v1");
        assert_eq!(variables["OPENAI_API_BASE"], "http://127.0.0.1:1/llm/openai/v1");
        assert!(variables["LOCAL_API_KEY"].starts_with(KEY));
    }
}
