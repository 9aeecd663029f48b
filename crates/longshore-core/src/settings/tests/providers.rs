//! `[provider.…]` and the fleets that name them.

use super::*;

pub(super) const OPENAI: &str = "[provider.openai]\nbase_url = \"https://api.openai.com/v1\"\n";
const LOCAL: &str = "[provider.local]\nbase_url = \"http://127.0.0.1:8000/v1\"\n";
const ANTHROPIC: &str = "[provider.anthropic]\nbase_url = \"https://api.anthropic.com\"\n";

fn provider(keys: &str, env: &[(&str, &str)]) -> Provider {
    let settings = good(&format!("{OPENAI}{keys}"), env);
    let [provider] = <[Provider; 1]>::try_from(settings.providers).expect("one provider");
    provider
}

#[test]
fn a_provider_needs_an_address_only() {
    let name = ProviderName::new("openai").expect("valid");
    assert_eq!(provider("", &[]), Provider::new(name, Kind::OpenAi, "https://api.openai.com/v1".into()));
    assert_eq!(warnings(&format!("{OPENAI}{ANTHROPIC}{MINIMAL}"), &[]), "");
}

#[test]
fn the_kind_follows_the_name_or_the_host_unless_it_is_said() {
    let kind = |name: &str, url: &str, more: &str| {
        good(&format!("[provider.{name}]\nbase_url = {url:?}\n{more}"), &[]).providers[0].kind
    };
    assert_eq!(kind("anthropic", "https://llm.example", ""), Kind::Anthropic);
    assert_eq!(kind("claude", "https://api.Anthropic.com:443/", ""), Kind::Anthropic);
    assert_eq!(kind("claude", "https://anthropic.com", ""), Kind::Anthropic);
    assert_eq!(kind("other", "https://notanthropic.com/v1", ""), Kind::OpenAi);
    assert_eq!(kind("other", "https://llm.example/anthropic.com/v1", ""), Kind::OpenAi);
    assert_eq!(kind("anthropic", "https://llm.example/v1", "kind = \"openai\"\n"), Kind::OpenAi);
}

#[test]
fn a_fleet_that_says_nothing_uses_every_provider() {
    let of = |line: &str| only_fleet(&format!("{OPENAI}{LOCAL}{MINIMAL}{line}"), &[]).providers;
    assert_eq!(of(""), ["local", "openai"]);
    assert_eq!(of("providers = []\n"), [""; 0]);
    assert_eq!(of("providers = [\"openai\", \"local\"]\n"), ["openai", "local"]);
    assert_eq!(only_fleet(MINIMAL, &[]).providers, [""; 0]);
}

#[test]
fn a_fleet_that_did_not_come_from_a_file_lists_a_provider_once_as_well() {
    let mut fleet = only_fleet(&format!("{OPENAI}{MINIMAL}"), &[]);
    assert_eq!(fleet.check(), Ok(()));
    fleet.providers.push("openai".into());
    assert_eq!(fleet.check(), Err("providers: a name is listed twice".into()));
}

#[test]
fn a_fleet_stored_before_there_were_providers_has_none() {
    let mut stored = serde_json::to_value(only_fleet(MINIMAL, &[])).expect("serialises");
    stored.as_object_mut().expect("a fleet is an object").remove("providers");
    let fleet: Fleet = serde_json::from_value(stored).expect("reads");
    assert_eq!(fleet.providers, [""; 0]);
}

#[test]
fn the_environment_overrides_providers() {
    let file = format!("{OPENAI}limits.\"gpt-5-mini\" = {{ requests_per_minute = 500 }}\n{LOCAL}{MINIMAL}");
    let env = [
        ("LONGSHORE__PROVIDER__OPENAI__BASE_URL", "http://127.0.0.1:9/v1"),
        ("LONGSHORE__PROVIDER__OPENAI__API_KEY", "{ env = \"KEY\" }"),
        ("LONGSHORE__PROVIDER__OPENAI__IDLE_TIMEOUT", "5s"),
        ("LONGSHORE__PROVIDER__OPENAI__LIMITS__GPT_5_MINI__REQUESTS_PER_MINUTE", "7"),
        ("LONGSHORE__PROVIDER__OPENAI__LIMITS__Other.Model", "{ tokens_per_minute = 9 }"),
        ("LONGSHORE__PROVIDER__OPENAI__PRICES", "{ \"*\" = { input = \"1.10\", output = 4.4 } }"),
        ("LONGSHORE__FLEET__RESEARCH__PROVIDERS", "[\"openai\"]"),
    ];
    let Settings { providers, fleets, .. } = good(&file, &env);
    let openai = &providers[1];
    assert_eq!((openai.base_url.as_str(), openai.idle_ms), ("http://127.0.0.1:9/v1", 5_000));
    assert_eq!(openai.api_key, Some(SecretSource::Env("KEY".into())));
    let limits: Vec<&str> = openai.limits.keys().map(String::as_str).collect();
    assert_eq!(limits, ["Other.Model", "gpt-5-mini"], "a model keeps the name that it has");
    assert_eq!(openai.limits["gpt-5-mini"].requests_per_minute, Some(7));
    assert_eq!(openai.prices["*"], Price { input: 1_100_000, cached_input: 1_100_000, output: 4_400_000 });
    assert_eq!(fleets[0].providers, ["openai"]);
}

#[test]
fn a_bad_override_of_a_provider_names_its_variable() {
    let env = [
        ("LONGSHORE__PROVIDER__OPENIA__BASE_URL", "http://x/v1"),
        ("LONGSHORE__PROVIDER__OPENAI__BASE_URI", "http://x/v1"),
        ("LONGSHORE__PROVIDER__OPENAI__BASE_URL", "https://user:hunter2@x/v1"),
        ("LONGSHORE__PROVIDER__OPENAI__API_KEY", "sk-1"),
        ("LONGSHORE__PROVIDER__OPENAI__PRICES__GPT__INPUT", "cheap"),
        ("LONGSHORE__FLEET__RESEARCH__PROVIDERS", "openai"),
    ];
    let seen = complaints(&format!("{OPENAI}{MINIMAL}"), &env);
    assert!(!seen.contains("sk-1") && !seen.contains("hunter2"), "{seen}");
    insta::assert_snapshot!("bad_provider_overrides", seen);
}

#[test]
fn addresses_are_checked_and_never_shown() {
    let problem = |url: &str| {
        let seen = complaints(&format!("[provider.a]\nbase_url = {url:?}\n"), &[]);
        let problem = seen.strip_prefix("longshore.toml:2:12: provider.a.base_url: ").expect(&seen);
        assert!(!problem.contains("hunter2"), "{problem}");
        problem.to_owned()
    };
    for no_address in
        ["", "api.openai.com/v1", "ftp://hunter2/v1", "HTTPS", "unix:///run/hunter2", "https://"]
    {
        assert!(problem(no_address).starts_with("expected an http or https address"), "{no_address}");
    }
    for (url, why) in [
        ("https:///v1", "no host"),
        ("https://-x/v1", "no host"),
        ("https://[::1/v1", "no host"),
        ("https://[zz]/v1", "no host"),
        ("https://:80/v1", "no host"),
        ("https://x/v1?key=hunter2", "without `?`"),
        ("https://x/v1#a", "without `?`"),
        ("https://me:hunter2@x/v1", "without a user"),
        ("https://x /v1", "no spaces"),
        ("https://x:0/v1", "port"),
        ("https://x:99999/v1", "port"),
        ("https://x:/v1", "port"),
    ] {
        let problem = problem(url);
        assert!(problem.contains(why), "{url}: {problem}");
    }
    for fine in
        ["http://llm_proxy:8000/v1", "http://[::1]:80/v1", "https://x/openai/v2", "http://10.0.0.1/v1///"]
    {
        assert_eq!(warnings(&format!("[provider.a]\nbase_url = {fine:?}\n{MINIMAL}"), &[]), "", "{fine}");
    }
}

#[test]
fn what_may_surprise_about_providers_is_a_warning() {
    let text = r#"
        [provider.openai]
        base_url = "https://api.openai.com"
        [provider.gemini]
        base_url = "https://llm.example/v1beta"
        [provider.claude]
        base_url = "https://api.anthropic.com"
        [fleet.all]
        command = ["x"]
        env = { OPENAI_BASE_URL = "http://x", ANTHROPIC_BASE_URL = "http://x", MODEL = "m" }
        secrets = { OPENAI_API_KEY = { env = "K" } }
        [fleet.one]
        command = ["x"]
        providers = ["claude"]
        env = { OPENAI_BASE_URL = "http://x" }
        secrets = { ANTHROPIC_API_KEY = { env = "K" }, OPENAI_API_KEY = { env = "K" } }
        [fleet.none]
        command = ["x"]
        providers = []
        env = { OPENAI_BASE_URL = "http://x" }
        secrets = { ANTHROPIC_API_KEY = { env = "K" } }
    "#;
    insta::assert_snapshot!("provider_warnings", warnings(text, &[]));
}

/// Bad files by name. Each shows all its mistakes at once.
const BAD: [(&str, &str); 4] = [
    (
        "provider_keys",
        "[provider]\nkey = 1\n[provider.Open_AI]\nbase_url = \"https://x/v1\"\nbase_uri = \"x\"\n[provider.a]\nkind = \"gemini\"\ntimeout = 10\nidle_timeout = \"0s\"\nretries = 21\nusage_in_streams = 1\nignore = \"user\"\ncurrency = \"dollars\"\n[provider.b]\nbase_url = 5\nignore = [\"user\", 1]\napi_key = \"sk-1\"\n",
    ),
    (
        "provider_limits",
        "[provider.a]\nbase_url = \"https://x/v1\"\nlimits.none = {}\nlimits.zero = { requests_per_minute = 0 }\nlimits.part = { tokens_per_minute = 1.5, requests_per_minute = 1 }\nlimits.word = { requests_per_minut = 5 }\nlimits.number = 60\nlimits.\"\" = { requests_per_minute = 1 }\n",
    ),
    (
        "provider_prices",
        "[provider.a]\nbase_url = \"https://x/v1\"\nprices.none = {}\nprices.bad = { input = \"$1\", output = -2 }\nprices.fine = { input = \"0.0000001\", output = 1e300 }\nprices.kind = { input = true, output = 1, cached = 1 }\n",
    ),
    (
        "fleet_providers",
        "[provider.openai]\nbase_url = \"https://x/v1\"\n[fleet.a]\ncommand = [\"x\"]\nproviders = [\"opnai\", \"openai\", \"openai\", \"local\"]\n[fleet.b]\ncommand = [\"x\"]\nproviders = \"openai\"\n[fleet.c]\ncommand = [\"x\"]\nproviders = [1]\n",
    ),
];

#[test]
fn bad_providers_say_where_what_and_what_was_expected() {
    for (name, text) in BAD {
        let seen = complaints(text, &[]);
        assert!(!seen.contains("sk-1"), "{name} shows a secret: {seen}");
        insta::with_settings!({ description => text, omit_expression => true }, {
            insta::assert_snapshot!(name, seen);
        });
    }
    let undeclared = complaints(&format!("{MINIMAL}providers = [\"openai\"]\n"), &[]);
    assert!(undeclared.ends_with("none is declared: add a table such as [provider.openai]"), "{undeclared}");
}

#[test]
fn the_effective_configuration_shows_providers_with_exact_prices() {
    let keys = "api_key = { env = \"OPENAI_API_KEY\" }\nignore = [\"user\"]\nlimits.\"*\" = { requests_per_minute = 60 }\n\
                prices.\"gpt-4.1\" = { input = 2.00, output = \"8\", cached_input = 0.5 }\n";
    let printed = good(&format!("{OPENAI}{keys}"), &[]).to_toml_redacted();
    let (_, printed) = printed.split_once("[provider").expect("the provider is shown");
    insta::assert_snapshot!("effective_provider", format!("[provider{printed}"));
}

fn any_limit() -> impl Strategy<Value = Limit> {
    let most = || 1u64..=i64::MAX as u64;
    prop_oneof![
        most().prop_map(|n| Limit { requests_per_minute: Some(n), tokens_per_minute: None }),
        most().prop_map(|n| Limit { requests_per_minute: None, tokens_per_minute: Some(n) }),
        (most(), most())
            .prop_map(|(a, b)| Limit { requests_per_minute: Some(a), tokens_per_minute: Some(b) }),
    ]
}

fn any_price() -> impl Strategy<Value = Price> {
    any::<[u64; 3]>().prop_map(|[input, cached_input, output]| Price { input, cached_input, output })
}

fn by_model<T: std::fmt::Debug>(
    one: impl Strategy<Value = T>,
) -> impl Strategy<Value = std::collections::BTreeMap<String, T>> {
    proptest::collection::btree_map("\\*|[^\u{0}]{1,12}", one, 0..3)
}

prop_compose! {
    pub(super) fn any_provider()(
        anthropic: bool, https: bool, host in "[a-z0-9]{1,9}(\\.[a-z]{2,3})?", port in proptest::option::of(1u16..),
        path in "(/[a-z0-9._~%-]{1,6}){0,2}", api_key in proptest::option::of(any_source()),
        times in (1u64..1 << 40, 1u64..1 << 40), retries in 0u32..=20, usage_in_streams: bool,
        ignore in proptest::collection::vec(any_text(), 0..3), limits in by_model(any_limit()),
        prices in by_model(any_price()), currency in "[A-Z]{3}",
    ) -> Provider {
        let kind = if anthropic { Kind::Anthropic } else { Kind::OpenAi };
        let scheme = if https { "https" } else { "http" };
        let port = port.map_or(String::new(), |port| format!(":{port}"));
        let name = ProviderName::new("x").expect("valid");
        let (timeout_ms, idle_ms) = times;
        Provider {
            api_key, timeout_ms, idle_ms, retries, usage_in_streams, ignore, limits, prices, currency,
            ..Provider::new(name, kind, format!("{scheme}://{host}{port}{path}"))
        }
    }
}
