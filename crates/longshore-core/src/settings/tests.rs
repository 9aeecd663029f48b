//! Good files by what they mean, bad files by what a person reads about them.

mod containers;
mod documented;
mod kubernetes;
mod listeners;
mod providers;
mod schedules;
mod webhooks;

use proptest::prelude::*;

use super::*;
use crate::fleet::{
    Drain, DrainMode, Platform, Probe, Protocol, ScaledBy, Scaling, TaskDefaults, TenantCaps,
};
use crate::id::{FleetName, TenantName};
use crate::provider::{Kind, Limit, Price, Provider, ProviderName};
use crate::rate::{self, Rate};
use crate::retention;
use crate::retry::Backoff;
use crate::rollout;
use crate::task::{OnBusy, OnInterrupt};
use crate::tenant::MOST_WEIGHT;

type Parsed = Result<(Settings, Vec<Warning>), Vec<SettingsError>>;

fn read(text: &str, env: &[(&str, &str)]) -> Parsed {
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    parse(text, "longshore.toml", &env, "/srv/agents")
}

fn good(text: &str, env: &[(&str, &str)]) -> Settings {
    match read(text, env) {
        Ok((settings, _)) => settings,
        Err(errors) => panic!("{}", lines(&errors)),
    }
}

fn only_fleet(text: &str, env: &[(&str, &str)]) -> Fleet {
    let [fleet] = <[Fleet; 1]>::try_from(good(text, env).fleets).expect("one fleet");
    fleet
}

fn lines<T: ToString>(notes: &[T]) -> String {
    notes.iter().map(|note| note.to_string()).collect::<Vec<_>>().join("\n")
}

/// What a person reads about a file that cannot be used.
fn complaints(text: &str, env: &[(&str, &str)]) -> String {
    match read(text, env) {
        Ok((settings, _)) => panic!("accepted: {settings}"),
        Err(errors) => lines(&errors),
    }
}

fn warnings(text: &str, env: &[(&str, &str)]) -> String {
    match read(text, env) {
        Ok((_, warnings)) => lines(&warnings),
        Err(errors) => panic!("{}", lines(&errors)),
    }
}

const MINIMAL: &str = "[fleet.research]\ncommand = [\"python\", \"agent.py\"]\n";

/// The sample of the design, whole.
const DESIGN_SAMPLE: &str = r#"
[store]                       # leave out: embedded, in ./.longshore
database = "postgres://longshore@db/longshore"
redis    = "redis://cache:6379"
migrate  = "auto"             # or "check"; `longshore migrate --sql` prints

[provider.openai]
base_url = "https://api.openai.com/v1"
api_key  = { env = "OPENAI_API_KEY" }         # or { file = "/run/secrets/openai" }
limits."gpt-5-mini" = { requests_per_minute = 500, tokens_per_minute = 200_000 }
limits."*"          = { requests_per_minute = 60 }

[fleet.research]
command = ["python", "agent.py"]
protocol = "exec"             # or "http"
concurrency = 1               # tasks in flight per worker; default 1 for exec, 8 for http
providers = ["openai"]
platform = "docker"           # process | docker | kubernetes | ecs
supervisor = "image"          # or "inject": put longshore into an unmodified image when it starts
egress = "open"               # or "closed" (only longshore), or ["10.0.0.0/8:5432"]
env     = { MODEL = "gpt-5-mini" }
secrets = { TAVILY_API_KEY = { env = "TAVILY_API_KEY" } }   # the agent's own, for its tools
image     = { repository = "registry.internal/research", keep = 15, prune = "plan" }
task      = { timeout = "15m", max_attempts = 3, on_interrupt = "resume" }
scaling   = { by = "direct", min = 2, max = 20, scale_up_above = 8, scale_down_below = 2 }
resources = { cpu = 0.5, cpu_limit = 2, memory = "512Mi", memory_limit = "2Gi" }   # the defaults
drain     = { timeout = "120s", mode = "wait" }
"#;

#[test]
fn a_minimal_file_is_filled_with_the_defaults() {
    let settings = good(MINIMAL, &[]);
    let command = vec!["python".to_owned(), "agent.py".to_owned()];
    let name = FleetName::new("research").expect("valid");
    assert_eq!(settings.fleets, [Fleet::new(name, command, "/srv/agents".into())]);
    assert_eq!(settings.store.dir, "/srv/agents/.longshore");
    assert_eq!(settings.server, ServerSettings::default());
    assert_eq!(warnings(MINIMAL, &[]), "");
}

#[test]
fn an_http_fleet_has_eight_slots_unless_it_says_otherwise() {
    let http = format!("{MINIMAL}protocol = \"http\"\n");
    assert_eq!(only_fleet(&http, &[]).concurrency, 8);
    assert_eq!(only_fleet(&format!("{http}concurrency = 3\n"), &[]).concurrency, 3);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        [store]
        dir = "data/./store"
        [server]
        api = "0.0.0.0:7117"
        link = "localhost:0"
        probes = "[::1]:7119"
        fleets = "api"
        token = { file = "token.txt" }
        keep_conversations = "180d"
        [provider.local]
        base_url = "http://[::1]:8000/v1/"
        [provider.azure-eu]
        kind = "anthropic"
        base_url = "https://llm.example/proxy"
        api_key = { file = "key" }
        timeout = "1m"
        idle_timeout = "30s"
        retries = 0
        usage_in_streams = false
        ignore = ["user", "metadata"]
        limits."gpt-5-mini" = { requests_per_minute = 500, tokens_per_minute = 200_000 }
        limits."*" = { requests_per_minute = 60 }
        prices."gpt-5-mini" = { input = "0.25", cached_input = 0.025, output = 2 }
        prices."*" = { input = 0.000001, output = "10.50" }
        currency = "EUR"
        [tenant."a@b.example"]
        weight = 5
        max_running = 9
        [tenant.default]
        [fleet.a-b]
        command = ["./run", "--fast"]
        max_running = 50
        rate = { tasks = 100, per = "1m" }
        tenants = { max_running = 3 }
        working_dir = "./agent"
        protocol = "http"
        concurrency = 16
        platform = "external"
        env = { A = "1" }
        secrets = { B = { env = "OUTER_B" }, C = { file = "/run/c" } }
        providers = ["local", "azure-eu"]
        health_path = ""
        kill_grace = "0s"
        task = { timeout = "1h30m", total_timeout = "1d", max_attempts = 5, on_interrupt = "ask", on_busy = "reject", backoff = { base = "2s", cap = "1m" }, result_limit = "2Mi" }
        scaling = { min = 0, max = 7, scale_up_above = 3, scale_down_below = 0.5, scale_up_wait = "5s", scale_down_after = "2m", step = 1 }
        llm_use = { model = "gpt-5-mini", requests_per_minute = 12.5 }
        drain = { timeout = "30s", mode = "handover" }
        probe = { interval = "5s", timeout = "1s", failures = 5, startup = "1m" }
        retention = { journal = "1h", results = "never", tasks = "never", max_tasks = 10 }
        pin_release = true
        rollout = { surge = 3, batch = 2, hold = "0s", ready = "30s", deadline = "10m", crashes = 1, canary = { min_samples = 0, failure_rate = 0.2, cost = 1.5, latency = 3 } }
    "#;
    let Settings { store, server, docker, kubernetes, providers, tenants, fleets, schedules, webhooks } =
        good(text, &[]);
    assert_eq!((schedules, webhooks), (Vec::new(), Vec::new()));
    assert_eq!((docker, kubernetes), (DockerSettings::default(), KubernetesSettings::default()));
    assert_eq!(store.dir, "/srv/agents/data/store");
    assert_eq!(
        (server.api.to_string(), server.link.to_string()),
        ("0.0.0.0:7117".into(), "127.0.0.1:0".into())
    );
    assert_eq!((server.probes.to_string(), server.fleets), ("[::1]:7119".into(), FleetsFrom::Api));
    assert_eq!(server.token, Some(SecretSource::File("/srv/agents/token.txt".into())));
    assert_eq!(server.conversations_ms, Some(180 * 86_400_000));
    let expected = Fleet {
        name: FleetName::new("a-b").expect("valid"),
        command: vec!["./run".into(), "--fast".into()],
        working_dir: "/srv/agents/agent".into(),
        protocol: Protocol::Http,
        concurrency: 16,
        platform: Platform::External,
        container: None,
        overlay: None,
        service: None,
        env: [("A".into(), "1".into())].into(),
        secrets: [
            ("B".into(), SecretSource::Env("OUTER_B".into())),
            ("C".into(), SecretSource::File("/run/c".into())),
        ]
        .into(),
        providers: vec!["local".into(), "azure-eu".into()],
        task: TaskDefaults {
            timeout_ms: 5_400_000,
            total_timeout_ms: Some(86_400_000),
            max_attempts: 5,
            on_interrupt: OnInterrupt::Ask,
            on_busy: OnBusy::Reject,
            backoff: Backoff { base_ms: 2_000, cap_ms: 60_000 },
            result_limit: 2 << 20,
        },
        max_running: Some(50),
        rate: Some(Rate { tasks: 100, per_ms: 60_000 }),
        tenants: TenantCaps { max_running: Some(3) },
        scaling: Scaling {
            by: ScaledBy::Direct,
            min: 0,
            max: 7,
            scale_up_above: 3.0,
            scale_down_below: 0.5,
            scale_up_wait_ms: 5_000,
            scale_down_after_ms: 120_000,
            step: 1,
        },
        llm_use: Some(crate::useful::LlmUse {
            model: "gpt-5-mini".into(),
            requests_per_minute: 12.5,
            tokens_per_minute: 0.0,
        }),
        drain: Drain { timeout_ms: 30_000, mode: DrainMode::Handover },
        probe: Probe { interval_ms: 5_000, timeout_ms: 1_000, failures: 5, startup_ms: 60_000 },
        retention: retention::Policy {
            journal_ms: Some(3_600_000),
            results_ms: None,
            tasks_ms: None,
            max_tasks: Some(10),
        },
        rollout: rollout::Policy {
            owner: rollout::Owner::Longshore,
            surge: 3,
            batch: 2,
            hold_ms: 0,
            ready_ms: 30_000,
            deadline_ms: 600_000,
            crashes: 1,
            canary: rollout::Canary { min_samples: 0, failure_rate: 0.2, cost: 1.5, latency: 3.0 },
            pin_release: true,
        },
        health_path: String::new(),
        kill_grace_ms: 0,
    };
    assert_eq!(fleets, [expected]);
    let tenant = |name| Tenant::new(TenantName::new(name).expect("valid"));
    let known = Tenant { weight: 5, max_running: Some(9), ..tenant("a@b.example") };
    assert_eq!(tenants, [known, tenant("default")]);
    let named = |name: &str| ProviderName::new(name).expect("valid");
    let local = Provider::new(named("local"), Kind::OpenAi, "http://[::1]:8000/v1".into());
    let azure = Provider {
        name: named("azure-eu"),
        kind: Kind::Anthropic,
        base_url: "https://llm.example/proxy".into(),
        api_key: Some(SecretSource::File("/srv/agents/key".into())),
        timeout_ms: 60_000,
        idle_ms: 30_000,
        retries: 0,
        usage_in_streams: false,
        ignore: vec!["user".into(), "metadata".into()],
        limits: [
            ("gpt-5-mini".into(), Limit { requests_per_minute: Some(500), tokens_per_minute: Some(200_000) }),
            ("*".into(), Limit { requests_per_minute: Some(60), tokens_per_minute: None }),
        ]
        .into(),
        prices: [
            ("gpt-5-mini".into(), Price { input: 250_000, cached_input: 25_000, output: 2_000_000 }),
            ("*".into(), Price { input: 1, cached_input: 1, output: 10_500_000 }),
        ]
        .into(),
        currency: "EUR".into(),
    };
    assert_eq!(providers, [azure, local]);
}

#[test]
fn the_designs_sample_is_taken_and_what_is_not_used_yet_is_said() {
    insta::assert_snapshot!("design_sample_warnings", warnings(DESIGN_SAMPLE, &[]));
    let Settings { providers, fleets, .. } = good(DESIGN_SAMPLE, &[]);
    assert_eq!((fleets[0].platform, fleets[0].container.is_some()), (Platform::Docker, true));
    assert_eq!(fleets[0].env["MODEL"], "gpt-5-mini");
    assert_eq!(fleets[0].providers, ["openai"]);
    assert_eq!(
        providers[0].limit_for("gpt-5-mini").map(|(_, limit)| limit.requests_per_minute),
        Some(Some(500))
    );
}

#[test]
fn what_is_not_said_of_retention_follows_a_shorter_life_of_tasks() {
    let kept = |keys: &str| only_fleet(&format!("{MINIMAL}retention = {{ {keys} }}\n"), &[]).retention;
    let short = kept("tasks = \"1h\"");
    assert_eq!((short.journal_ms, short.results_ms), (Some(3_600_000), Some(3_600_000)));
    let for_ever = kept("tasks = \"never\"");
    assert_eq!((for_ever.tasks_ms, for_ever.journal_ms), (None, retention::Policy::default().journal_ms));
}

#[test]
fn undeclared_limits_follow_declared_ones() {
    let scaling = |text: &str| only_fleet(&format!("{MINIMAL}scaling = {text}\n"), &[]).scaling;
    assert_eq!(scaling("{ max = 1 }").min, 1);
    assert_eq!(scaling("{ min = 30 }").max, 30);
    assert_eq!(scaling("{ scale_up_above = 2 }").scale_down_below, 0.5);
    assert_eq!(scaling("{ scale_down_below = 10 }").scale_up_above, 40.0);
    let backoff = |text: &str| only_fleet(&format!("{MINIMAL}task.backoff = {text}\n"), &[]).task.backoff;
    assert_eq!(backoff("{ cap = \"100ms\" }").base_ms, 100);
    assert_eq!(backoff("{ base = \"10m\" }").cap_ms, 600_000);
}

#[test]
fn the_environment_overrides_the_file() {
    let file = format!(
        "{MINIMAL}concurrency = 2\nenv = {{ Model = \"a\" }}\n[fleet.data-prep]\ncommand = [\"x\"]\n"
    );
    let env = [
        ("LONGSHORE__FLEET__RESEARCH__CONCURRENCY", "16"),
        ("LONGSHORE__FLEET__RESEARCH__SCALING__MIN", "3"),
        ("longshore__fleet__research__task", "{ timeout = \"1m\" }"),
        ("LONGSHORE__FLEET__RESEARCH__TASK__MAX_ATTEMPTS", "9"),
        ("LONGSHORE__FLEET__RESEARCH__ENV__MODEL", "1.50"),
        ("LONGSHORE__FLEET__RESEARCH__ENV__NEW__NAME", "true"),
        ("LONGSHORE__FLEET__RESEARCH__SECRETS__PASSWORD", "{ env = \"P\" }"),
        ("LONGSHORE__FLEET__DATA_PREP__KILL_GRACE", "3s"),
        ("LONGSHORE__FLEET__DATA_PREP__COMMAND", "[\"y\", \"z\"]"),
        ("LONGSHORE__STORE__DIR", "/data"),
        ("LONGSHORE_LOG", "debug"),
        ("PATH", "/bin"),
    ];
    let Settings { store, fleets, .. } = good(&file, &env);
    let [prep, research] = &fleets[..] else { panic!("two fleets: {fleets:?}") };
    assert_eq!((research.concurrency, research.scaling.min), (16, 3));
    assert_eq!((research.task.timeout_ms, research.task.max_attempts), (60_000, 9));
    let pairs: Vec<(&str, &str)> =
        research.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("Model", "1.50"), ("NEW__NAME", "true")], "text stays as it was written");
    assert_eq!(research.secrets["PASSWORD"], SecretSource::Env("P".into()));
    assert_eq!((prep.kill_grace_ms, prep.command.join(" ")), (3_000, "y z".into()));
    assert_eq!(store.dir, "/data");
}

#[test]
fn a_bad_override_names_its_variable() {
    let env = [
        ("LONGSHORE__FLEET__RESEARCH__CONCURENCY", "16"),
        ("LONGSHORE__FLEET__RESERCH__CONCURRENCY", "16"),
        ("LONGSHORE__FLEET__RESEARCH__CONCURRENCY", "many"),
        ("LONGSHORE__FLEET__RESEARCH__PROTOCOL__X", "1"),
        ("LONGSHORE__FLEET__RESEARCH__DRAIN__TIMEOUT", "90"),
        ("LONGSHORE__SEVER__API", "127.0.0.1:1"),
        ("LONGSHORE____X", "1"),
    ];
    let file = format!("{MINIMAL}protocol = \"exec\"\n");
    insta::assert_snapshot!("bad_overrides", complaints(&file, &env));
}

#[test]
fn addresses_in_the_environment_are_understood() {
    let both = [("DATABASE_URL", "postgres://u:pw@db/x"), ("REDIS_URL", "redis://:pw@cache")];
    let settings = good(MINIMAL, &both);
    let shared = settings.store.shared.clone().expect("a database is given");
    assert_eq!(shared.database, Address::Secret(SecretSource::Env("DATABASE_URL".into())));
    assert!(shared.redis.is_some());
    assert!(!settings.to_string().contains("pw"), "{settings}");
    let given = good(&format!("{MINIMAL}[store]\ndatabase = \"postgres://db/x\"\n"), &both);
    let shared = given.store.shared.expect("a database is given");
    assert_eq!(shared.database, Address::Given("postgres://db/x".into()), "the file comes first");
    for (name, value) in [("DATABASE_URL", "mysql://u:pw@db/x"), ("REDIS_URL", "redis://:pw@cache")] {
        let seen = warnings(MINIMAL, &[(name, value)]);
        assert!(seen.contains(&format!("{name}: not used")) && !seen.contains("pw"), "{seen}");
    }
}

#[test]
fn what_may_surprise_is_a_warning() {
    let text = r#"
        [fleet.a]
        command = ["x"]
        env = { OPENAI_API_KEY = "sk-very-secret" }
        kill_grace = "30s"
        scaling = { min = 1 }
        drain = { timeout = "10s" }
    "#;
    let seen = warnings(text, &[]);
    insta::assert_snapshot!("warnings", seen);
    assert_eq!(warnings("", &[]).lines().count(), 1, "an empty file runs nothing");
}

/// Bad files by name. Each shows all its mistakes at once.
const BAD: [(&str, &str); 21] = [
    ("syntax", "[fleet.research\ncommand = [\"x\"]\n[server]\napi = \n"),
    ("duplicate_key", "[fleet.a]\ncommand = [\"x\"]\ncommand = [\"y\"]\n"),
    (
        "unknown_keys",
        "[fleet.a]\ncommand = [\"x\"]\nconcurency = 2\nscaling = { mim = 1, maximum = 3 }\n[sever]\n[server]\nzzzz = 1\n",
    ),
    ("command_as_string", "[fleet.a]\ncommand = \"python agent.py\"\n[fleet.b]\ncommand = \"cat | wc -c\"\n"),
    (
        "command_missing_or_empty",
        "[fleet.a]\n[fleet.b]\ncommand = []\n[fleet.c]\ncommand = [\"x\", 1]\n[fleet.d]\ncommand = [\"\"]\n",
    ),
    ("fleet_without_name", "[fleet]\ncommand = [\"x\"]\n[fleet.Bad_Name]\ncommand = [\"x\"]\n"),
    (
        "plain_secret",
        "[server]\ntoken = \"sk-1\"\n[fleet.a]\ncommand = [\"x\"]\nsecrets = { K = \"sk-2\", L = { value = \"sk-3\" }, M = { env = \"A\", file = \"B\" }, N = { env = 5 } }\n",
    ),
    (
        "units",
        "[fleet.a]\ncommand = [\"x\"]\nkill_grace = 10\ntask = { timeout = \"0s\", result_limit = 5, backoff = { base = \"1.5s\", cap = \"soon\" } }\ndrain = { timeout = true }\n",
    ),
    (
        "sizes",
        "[fleet.a]\ncommand = [\"x\"]\ntask = { result_limit = \"1Ti\" }\n[fleet.b]\ncommand = [\"x\"]\ntask = { result_limit = \"1Gb\" }\n",
    ),
    (
        "ranges",
        "[fleet.a]\ncommand = [\"x\"]\nconcurrency = 0\nscaling = { min = -1, max = 100000, step = 0, scale_up_above = 0, scale_down_below = nan }\nprobe = { failures = 99999999999999999999 }\n",
    ),
    (
        "caps",
        "[tenant.\"a b\"]\nweight = 0\n[tenant.b]\nmax_running = 0\nwieght = 2\n[fleet.a]\ncommand = [\"x\"]\nmax_running = 0\nrate = { tasks = 5 }\ntenants = { max = 1 }\n[fleet.b]\ncommand = [\"x\"]\nrate = { tasks = 0, per = \"90d\" }\ntask = { on_busy = \"wait\", total_timeout = 5 }\n",
    ),
    (
        "contradictions",
        "[fleet.a]\ncommand = [\"x\"]\nscaling = { min = 5, max = 3, scale_up_above = 2, scale_down_below = 2 }\ntask = { backoff = { base = \"1m\", cap = \"1s\" } }\n",
    ),
    (
        "later_words",
        "[store]\ndatabase = \"postgres://u:pw@db/x\"\n[fleet.a]\ncommand = [\"x\"]\nplatform = \"ecs\"\n",
    ),
    (
        "store",
        "[store]\ndatabase = \"mysql://u:pw@db/x\"\nredis = []\nschema = \"Bad\"\n[fleet.a]\ncommand = [\"x\"]\n",
    ),
    (
        "store_of_half",
        "[store]\nredis = \"redis://cache\"\nschema = \"x\"\nredis_master = \"m\"\nredis_topology = \"cluster\"\n[fleet.a]\ncommand = [\"x\"]\n",
    ),
    (
        "choices",
        "[server]\nfleets = \"files\"\n[fleet.a]\ncommand = [\"x\"]\nprotocol = \"grpc\"\nplatform = 1\ndrain = { mode = \"now\" }\n",
    ),
    (
        "wrong_types",
        "server = 1\n[fleet.a]\ncommand = 2026-01-01\nenv = [\"A=1\"]\nscaling = \"2-20\"\nconcurrency = 1.5\nworking_dir = 3\n",
    ),
    (
        "agent_environment",
        "[fleet.a]\ncommand = [\"x\"]\nenv = { N = 1, LONGSHORE_TASK_ID = \"x\", \"A=B\" = \"x\", S = \"x\" }\nsecrets = { S = { env = \"S\" } }\n",
    ),
    (
        "retention",
        "[server]\nkeep_conversations = 5\n[fleet.a]\ncommand = [\"x\"]\nretention = { tasks = \"1d\", results = \"2d\", max_tasks = 0, journals = \"1d\" }\n",
    ),
    (
        "listeners",
        "[server]\napi = \"0.0.0.0:7117\"\nlink = \"127.0.0.1:7119\"\nprobes = \"somewhere\"\n[fleet.a]\ncommand = [\"x\"]\nhealth_path = \"health\"\n",
    ),
    (
        "same_listener_and_non_ascii",
        "[server]\nallow_insecure = \"ja\"\nlink = \"127.0.0.1:7117\"\n[\"größe\"]\n[fleet.a]\n\"ключ\" = 1\ncommand = [\"x\"] # ü\n",
    ),
];

#[test]
fn bad_files_say_where_what_and_what_was_expected() {
    for (name, text) in BAD {
        let seen = complaints(text, &[]);
        for secret in ["sk-1", "sk-2", "sk-3", "pw"] {
            assert!(!seen.contains(secret), "{name} shows a secret: {seen}");
        }
        insta::with_settings!({ description => text, omit_expression => true }, {
            insta::assert_snapshot!(name, seen);
        });
    }
}

#[test]
fn a_secret_in_text_that_is_no_toml_is_not_shown() {
    for text in
        ["[server]\ntoken = sk-1\n", "[server]\ntoken = \"sk-1\n", "[server]\ntoken = { env = \"A\" sk-1 }\n"]
    {
        let seen = complaints(text, &[]);
        assert!(seen.contains("longshore.toml:2:") && !seen.contains("sk-1"), "{seen}");
    }
    let seen = complaints(
        MINIMAL,
        &[("LONGSHORE__SERVER__TOKEN", "sk-1"), ("LONGSHORE__FLEET__RESEARCH__SECRETS__K", "sk-1")],
    );
    assert!(seen.lines().count() == 2 && !seen.contains("sk-1"), "{seen}");
}

#[test]
fn the_effective_configuration_shows_sources_of_secrets_only() {
    let text = format!(
        "[server]\ntoken = {{ env = \"API_TOKEN\" }}\n{MINIMAL}secrets = {{ K = {{ file = \"k.txt\" }} }}\nenv = {{ \"a.b\" = \"say \\\"hi\\\"\\n\" }}\n"
    );
    insta::assert_snapshot!("effective", good(&text, &[]).to_toml_redacted());
}

fn any_text() -> impl Strategy<Value = String> {
    // No zero byte: neither a path nor an environment can hold one.
    "[^\u{0}]{0,12}"
}

fn any_source() -> impl Strategy<Value = SecretSource> {
    prop_oneof!["[A-Z_]{1,8}".prop_map(SecretSource::Env), "/[a-z/]{0,8}[a-z]".prop_map(SecretSource::File),]
}

prop_compose! {
    fn any_rate()(tasks in 1..=rate::MOST_TASKS, per_ms in 1..=rate::LONGEST_MS) -> Rate {
        Rate { tasks, per_ms }
    }
}

prop_compose! {
    fn any_tenant()(
        name in "[a-zA-Z0-9][a-z.@_:-]{0,5}", weight in 1..=MOST_WEIGHT, max_running in proptest::option::of(1u32..),
    ) -> Tenant {
        Tenant { name: TenantName::new(name).expect("valid"), weight, max_running }
    }
}

prop_compose! {
    fn any_task()(
        timeout_ms in 1u64..1 << 40, max_attempts in 1u32..=1000, base_ms in 0u64..1 << 30,
        total_timeout_ms in proptest::option::of(1u64..1 << 40), on_busy in proptest::sample::select(&OnBusy::ALL[..]),
        on_interrupt in prop_oneof![Just(OnInterrupt::Resume), Just(OnInterrupt::Fail), Just(OnInterrupt::Ask)],
        more in 0u64..1 << 30, result_limit in 1u64 << 10..=256 << 20,
    ) -> TaskDefaults {
        let backoff = Backoff { base_ms, cap_ms: base_ms + more };
        TaskDefaults { timeout_ms, total_timeout_ms, max_attempts, on_interrupt, on_busy, backoff, result_limit }
    }
}

prop_compose! {
    fn any_scaling()(
        min in 0u32..5000, more in 0u32..5000, up in 1e-9f64..1e12, part in 0.0..0.999f64, wait in 1u64..1 << 40,
        after in 1u64..1 << 40, step in 1u32..=10_000,
    ) -> Scaling {
        Scaling {
            by: ScaledBy::Direct,
            min, max: (min + more).max(1), scale_up_above: up, scale_down_below: up * part, scale_up_wait_ms: wait,
            scale_down_after_ms: after, step,
        }
    }
}

fn any_kept() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(1u64..1 << 40)
}

prop_compose! {
    fn any_retention()(
        journal_ms in any_kept(), results_ms in any_kept(), tasks in any_kept(),
        max_tasks in proptest::option::of(1u64..1 << 40),
    ) -> retention::Policy {
        let longest = journal_ms.zip(results_ms).map(|(journal, results)| journal.max(results));
        let tasks_ms = tasks.zip(longest).map(|(tasks, longest)| tasks.max(longest));
        retention::Policy { journal_ms, results_ms, tasks_ms, max_tasks }
    }
}

prop_compose! {
    fn any_rollout()(
        surge in 0u32..=1000, batch in 1u32..=1000, hold_ms in 0u64..1 << 30, ready_ms in 1u64..1 << 40,
        more in 1u64..1 << 40, crashes in 0u32..=1000, min_samples in 0u32..=1_000_000, pin_release: bool,
        (failure_rate, cost, latency) in (0.0f64..9.0, 0.0f64..9.0, 0.0f64..1e9),
    ) -> rollout::Policy {
        let canary = rollout::Canary { min_samples, failure_rate, cost, latency };
        rollout::Policy { surge, batch, hold_ms, ready_ms, deadline_ms: hold_ms + more, crashes, canary, pin_release, owner: rollout::Owner::Longshore }
    }
}

prop_compose! {
    fn any_fleet()(
        name in "[a-z][a-z0-9]{0,9}", first in "[^\u{0}]{1,12}", rest in proptest::collection::vec(any_text(), 0..3),
        http: bool, external: bool, container in proptest::option::of(containers::any_container()), concurrency in 1u32..=10_000,
        env in proptest::collection::btree_map("[^\u{0}=]{1,6}", any_text(), 0..3),
        secrets in proptest::collection::btree_map("[A-Z]{7,9}", any_source(), 0..3),
        caps in (proptest::option::of(1u32..), proptest::option::of(1u32..), proptest::option::of(any_rate())),
        task in any_task(), scaling in any_scaling(), times in (1u64..1 << 40, 1u64..1 << 40, 0u64..1 << 40), retention in any_retention(),
        rollout in any_rollout(), llm_use in proptest::option::of((any_text(), 0.001f64..1e9, 0f64..1e9)),
    ) -> Fleet {
        let mut fleet = Fleet::new(FleetName::new(name).expect("valid"), vec![first], "/srv/a b".into());
        fleet.command.extend(rest);
        fleet.protocol = if http { Protocol::Http } else { Protocol::Exec };
        fleet.platform = match (&container, external) {
            (Some(_), _) => Platform::Docker,
            (None, true) => Platform::External,
            (None, false) => Platform::Process,
        };
        if fleet.platform == Platform::External && concurrency % 2 == 0 {
            fleet.platform = Platform::Compose;
            fleet.service = Some("agent".into());
            (fleet.env, fleet.secrets) = Default::default();
        }
        fleet.container = container;
        fleet.drain.mode = if http { DrainMode::Handover } else { DrainMode::Wait };
        (fleet.drain.timeout_ms, fleet.probe.startup_ms, fleet.kill_grace_ms) = times;
        let (max_running, of_tenant, rate) = caps;
        let tenants = TenantCaps { max_running: of_tenant };
        let llm_use = llm_use.map(|(model, requests_per_minute, tokens_per_minute)| {
            crate::useful::LlmUse { model, requests_per_minute, tokens_per_minute }
        });
        Fleet { concurrency, env, secrets, task, max_running, rate, tenants, scaling, llm_use, retention, rollout, ..fleet }
    }
}

fn any_tls() -> impl Strategy<Value = Tls> {
    let files = ("/[a-z/]{0,8}[a-z]", "/[a-z/]{0,8}[a-z]").prop_map(|(cert, key)| Tls::Files { cert, key });
    prop_oneof![Just(Tls::Off), Just(Tls::Auto), files]
}

proptest! {
    #[test]
    fn the_effective_configuration_reads_back_the_same(
        fleets in proptest::collection::btree_map("[a-z]{1,5}", any_fleet(), 0..3),
        providers in proptest::collection::btree_map("[a-z]{1,5}", providers::any_provider(), 0..3),
        listed in proptest::collection::vec(any::<bool>(), 3),
        tenants in proptest::collection::vec(any_tenant(), 0..3),
        token in proptest::option::of(any_source()), conversations_ms in any_kept(), tls in any_tls(),
        dir in "/[a-z ]{0,6}[a-z]", port in 1u16..7000,
    ) {
        let mut settings = good("", &[]);
        let listed: Vec<String> = providers.keys().zip(listed).filter(|(_, on)| *on).map(|(name, _)| name.clone()).collect();
        settings.providers = providers.into_iter().map(|(name, provider)| {
            Provider { name: ProviderName::new(name).expect("valid"), ..provider }
        }).collect();
        settings.fleets = fleets.into_iter().map(|(name, fleet)| {
            Fleet { name: FleetName::new(name).expect("valid"), providers: listed.iter().rev().cloned().collect(), ..fleet }
        }).collect();
        settings.tenants = tenants;
        settings.tenants.sort_by(|a, b| a.name.cmp(&b.name));
        settings.tenants.dedup_by(|a, b| a.name == b.name);
        settings.store.dir = dir;
        settings.server.api.set_port(port);
        settings.server.token = token;
        settings.server.conversations_ms = conversations_ms;
        settings.server.tls = tls;
        let text = settings.to_toml_redacted();
        let again = parse(&text, "again.toml", &[], "/elsewhere");
        prop_assert_eq!(again.map(|(settings, _)| settings).map_err(|errors| lines(&errors)), Ok(settings), "{}", text);
    }

    #[test]
    fn no_text_panics(text in any::<String>(), name in "(LONGSHORE__)?[A-Z_]{0,20}", value: String) {
        let _ = parse(&text, "f", &[(name, value)], "");
    }

    #[test]
    fn no_override_of_a_good_file_panics(
        key in "(FLEET__RESEARCH|PROVIDER__OPENAI|SERVER|STORE)(__[A-Z_]{0,12}){0,3}", value in "[\\[{\"a-z0-9=., }\\]]{0,12}",
    ) {
        let file = format!("{}{MINIMAL}", providers::OPENAI);
        let _ = read(&file, &[(&format!("LONGSHORE__{key}"), &value)]);
    }
}
