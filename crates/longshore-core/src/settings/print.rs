//! Settings as TOML, for `longshore config`.

use std::fmt::Write;

use super::{
    Address, DockerSettings, FleetsFrom, KubernetesSettings, Pooler, RedisSettings, RedisTopology, Settings,
    SharedStore, Tls,
};
use crate::container::{Container, Egress, Resources, Supervisor};
use crate::fleet::{DrainMode, Fleet, Protocol, SecretSource};
use crate::provider::{Limit, Price, Provider, show_price};
use crate::rollout;
use crate::schedule::{Missed, Overlap, Schedule};
use crate::task::OnInterrupt;
use crate::units::{show_duration, show_size};
use crate::webhook::Webhook;

pub(super) fn settings(settings: &Settings) -> String {
    let mut out = Lines::default();
    out.table("store");
    out.line("dir", text(&settings.store.dir));
    if let Some(shared) = &settings.store.shared {
        store(&mut out, shared);
    }
    let server = &settings.server;
    out.table("server");
    out.line("api", text(&server.api.to_string()));
    out.line("link", text(&server.link.to_string()));
    if let Some(url) = &server.link_url {
        out.line("link_url", text(url));
    }
    out.line("probes", text(&server.probes.to_string()));
    out.line("fleets", text(if server.fleets == FleetsFrom::Api { "api" } else { "file" }));
    if let Some(token) = &server.token {
        out.line("token", source(token));
    }
    out.line("allow_insecure", server.allow_insecure.to_string());
    out.line("tls", tls(&server.tls));
    out.line("input_limit", text(&show_size(server.input_limit)));
    out.line("keep_conversations", kept(server.conversations_ms));
    docker(&mut out, &settings.docker);
    kubernetes(&mut out, &settings.kubernetes);
    for one in &settings.providers {
        provider(&mut out, one);
    }
    for tenant in &settings.tenants {
        out.table(&format!("tenant.{}", key(tenant.name.as_str())));
        out.line("weight", tenant.weight.to_string());
        if let Some(most) = tenant.max_running {
            out.line("max_running", most.to_string());
        }
    }
    for one in &settings.fleets {
        fleet(&mut out, one);
    }
    for one in &settings.schedules {
        schedule(&mut out, one);
    }
    for one in &settings.webhooks {
        webhook(&mut out, one);
    }
    out.0
}

/// Nothing is said of it where nothing is set.
fn docker(out: &mut Lines, docker: &DockerSettings) {
    let DockerSettings { host, inject, cpu, memory, project, override_file } = docker;
    if *docker == DockerSettings::default() {
        return;
    }
    out.table("docker");
    if let Some(host) = host {
        out.line("host", text(host));
    }
    if let Some(path) = inject {
        out.line("inject", text(path));
    }
    if let Some(cpu) = cpu {
        out.line("cpu", number(f64::from(*cpu) / 1000.0));
    }
    if let Some(memory) = memory {
        out.line("memory", text(&show_size(*memory)));
    }
    if let Some(project) = project {
        out.line("project", text(project));
    }
    if let Some(path) = override_file {
        out.line("override", text(path));
    }
}

/// Nothing is said of it where nothing is set.
fn kubernetes(out: &mut Lines, kubernetes: &KubernetesSettings) {
    let KubernetesSettings {
        namespace,
        image,
        image_pull_secrets,
        insecure_registries,
        secret,
        store_secret,
        replicas,
        overlay,
        metrics,
    } = kubernetes;
    if *kubernetes == KubernetesSettings::default() {
        return;
    }
    out.table("kubernetes");
    if let Some(namespace) = namespace {
        out.line("namespace", text(namespace));
    }
    if let Some(image) = image {
        out.line("image", text(&image.to_string()));
    }
    if !image_pull_secrets.is_empty() {
        out.line("image_pull_secrets", texts(image_pull_secrets));
    }
    if !insecure_registries.is_empty() {
        out.line("insecure_registries", texts(insecure_registries));
    }
    out.line("secret", text(secret));
    if let Some(secret) = store_secret {
        out.line("store_secret", text(secret));
    }
    out.line("replicas", replicas.to_string());
    if let Some(overlay) = overlay {
        out.line("overlay", text(overlay));
    }
    out.line("metrics", text(&metrics.to_string()));
}

fn store(out: &mut Lines, store: &SharedStore) {
    out.line("database", address(&store.database));
    if let Some(password) = &store.database_password {
        out.line("database_password", source(password));
    }
    out.line("schema", text(&store.schema));
    out.line("connections", store.connections.to_string());
    out.line("pooler", text(if store.pooler == Pooler::Transaction { "transaction" } else { "none" }));
    out.line("migrate", text(if store.migrate { "auto" } else { "check" }));
    if let Some(it) = &store.redis {
        redis(out, it);
    }
}

fn redis(out: &mut Lines, redis: &RedisSettings) {
    out.line("redis", list(&redis.addresses));
    match &redis.topology {
        RedisTopology::Single => {}
        RedisTopology::Cluster => out.line("redis_topology", text("cluster")),
        RedisTopology::Sentinel { master } => out.line("redis_master", text(master)),
    }
    if let Some(user) = &redis.user {
        out.line("redis_user", text(user));
    }
    if let Some(password) = &redis.password {
        out.line("redis_password", source(password));
    }
    out.line("redis_prefix", text(&redis.prefix));
    if let Some(ca) = &redis.ca {
        out.line("redis_ca", text(ca));
    }
    if !redis.cache.is_empty() {
        out.line("redis_cache", list(&redis.cache));
    }
}

fn list(addresses: &[Address]) -> String {
    format!("[{}]", addresses.iter().map(address).collect::<Vec<_>>().join(", "))
}

fn address(it: &Address) -> String {
    match it {
        Address::Given(url) => text(url),
        Address::Secret(secret) => source(secret),
    }
}

fn tls(tls: &Tls) -> String {
    match tls {
        Tls::Off => text("off"),
        Tls::Auto => text("auto"),
        Tls::Files { cert, key } => inline([("cert", text(cert)), ("key", text(key))]),
    }
}

fn provider(out: &mut Lines, provider: &Provider) {
    out.table(&format!("provider.{}", provider.name));
    out.line("kind", text(provider.kind.as_str()));
    out.line("base_url", text(&provider.base_url));
    if let Some(key) = &provider.api_key {
        out.line("api_key", source(key));
    }
    out.line("timeout", duration(provider.timeout_ms));
    out.line("idle_timeout", duration(provider.idle_ms));
    out.line("retries", provider.retries.to_string());
    out.line("usage_in_streams", provider.usage_in_streams.to_string());
    out.line("ignore", texts(&provider.ignore));
    out.line("limits", inline(provider.limits.iter().map(|(model, one)| (model.as_str(), limit(one)))));
    out.line("prices", inline(provider.prices.iter().map(|(model, one)| (model.as_str(), price(one)))));
    out.line("currency", text(&provider.currency));
}

fn limit(limit: &Limit) -> String {
    let Limit { requests_per_minute, tokens_per_minute } = *limit;
    let limits = [("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)];
    inline(limits.into_iter().filter_map(|(key, most)| most.map(|most| (key, most.to_string()))))
}

/// As strings: a number in TOML may lose decimals on its way.
fn price(price: &Price) -> String {
    let Price { input, cached_input, output } = *price;
    let prices = [("input", input), ("cached_input", cached_input), ("output", output)];
    inline(prices.map(|(key, pico)| (key, text(&show_price(pico)))))
}

fn fleet(out: &mut Lines, fleet: &Fleet) {
    out.table(&format!("fleet.{}", fleet.name));
    if !fleet.command.is_empty() {
        out.line("command", texts(&fleet.command));
    }
    if !fleet.working_dir.is_empty() {
        out.line("working_dir", text(&fleet.working_dir));
    }
    out.line("protocol", text(if fleet.protocol == Protocol::Http { "http" } else { "exec" }));
    out.line("concurrency", fleet.concurrency.to_string());
    out.line("platform", text(fleet.platform.as_str()));
    if let Some(it) = &fleet.container {
        container(out, it);
    }
    if let Some(service) = &fleet.service {
        out.line("service", text(service));
    }
    if let Some(overlay) = &fleet.overlay {
        out.line("kubernetes", inline([("overlay", text(overlay))]));
    }
    out.line("env", inline(fleet.env.iter().map(|(name, value)| (name.as_str(), text(value)))));
    out.line("secrets", inline(fleet.secrets.iter().map(|(name, from)| (name.as_str(), source(from)))));
    // Even when empty: left out it means all.
    out.line("providers", texts(&fleet.providers));
    out.line("health_path", text(&fleet.health_path));
    out.line("kill_grace", duration(fleet.kill_grace_ms));
    caps(out, fleet);
    policies(out, fleet);
}

fn egress(egress: &Egress) -> String {
    match egress {
        Egress::Open => text("open"),
        Egress::Closed => text("closed"),
        Egress::Only(destinations) => {
            texts(&destinations.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
    }
}

fn container(out: &mut Lines, container: &Container) {
    out.line("image", text(&container.image.to_string()));
    out.line("supervisor", text(if container.supervisor == Supervisor::Inject { "inject" } else { "image" }));
    out.line("egress", egress(&container.egress));
    let Resources { cpu, cpu_limit, memory, memory_limit, pids } = container.resources;
    let cores = |thousandths: u32| number(f64::from(thousandths) / 1000.0);
    let parts = [
        ("cpu", cores(cpu)),
        ("cpu_limit", cores(cpu_limit)),
        ("memory", text(&show_size(memory))),
        ("memory_limit", text(&show_size(memory_limit))),
        ("pids", pids.to_string()),
    ];
    out.line("resources", inline(parts));
}

/// Left out they mean no cap.
fn caps(out: &mut Lines, fleet: &Fleet) {
    if let Some(most) = fleet.max_running {
        out.line("max_running", most.to_string());
    }
    if let Some(rate) = fleet.rate {
        out.line("rate", inline([("tasks", rate.tasks.to_string()), ("per", duration(rate.per_ms))]));
    }
    if let Some(most) = fleet.tenants.max_running {
        out.line("tenants", inline([("max_running", most.to_string())]));
    }
}

fn policies(out: &mut Lines, fleet: &Fleet) {
    let Fleet { task, scaling, drain, probe, .. } = fleet;
    let backoff = inline([("base", duration(task.backoff.base_ms)), ("cap", duration(task.backoff.cap_ms))]);
    let mut limits = vec![
        ("timeout", duration(task.timeout_ms)),
        ("max_attempts", task.max_attempts.to_string()),
        ("on_interrupt", text(on_interrupt(task.on_interrupt))),
        ("on_busy", text(task.on_busy.as_str())),
        ("backoff", backoff),
        ("result_limit", text(&show_size(task.result_limit))),
    ];
    limits.extend(task.total_timeout_ms.map(|ms| ("total_timeout", duration(ms))));
    out.line("task", inline(limits));
    out.line(
        "scaling",
        inline([
            ("by", text(scaling.by.as_str())),
            ("min", scaling.min.to_string()),
            ("max", scaling.max.to_string()),
            ("scale_up_above", number(scaling.scale_up_above)),
            ("scale_down_below", number(scaling.scale_down_below)),
            ("scale_up_wait", duration(scaling.scale_up_wait_ms)),
            ("scale_down_after", duration(scaling.scale_down_after_ms)),
            ("step", scaling.step.to_string()),
        ]),
    );
    if let Some(used) = &fleet.llm_use {
        let parts = [
            ("model", text(&used.model)),
            ("requests_per_minute", number(used.requests_per_minute)),
            ("tokens_per_minute", number(used.tokens_per_minute)),
        ];
        out.line("llm_use", inline(parts));
    }
    let mode = text(if drain.mode == DrainMode::Handover { "handover" } else { "wait" });
    out.line("drain", inline([("timeout", duration(drain.timeout_ms)), ("mode", mode)]));
    out.line(
        "probe",
        inline([
            ("interval", duration(probe.interval_ms)),
            ("timeout", duration(probe.timeout_ms)),
            ("failures", probe.failures.to_string()),
            ("startup", duration(probe.startup_ms)),
        ]),
    );
    let retention = &fleet.retention;
    let most = retention.max_tasks.map(|most| ("max_tasks", most.to_string()));
    let parts = [
        ("journal", kept(retention.journal_ms)),
        ("results", kept(retention.results_ms)),
        ("tasks", kept(retention.tasks_ms)),
    ];
    out.line("retention", inline(parts.into_iter().chain(most)));
    rollout(out, &fleet.rollout);
}

fn rollout(out: &mut Lines, policy: &rollout::Policy) {
    let canary = inline([
        ("min_samples", policy.canary.min_samples.to_string()),
        ("failure_rate", number(policy.canary.failure_rate)),
        ("cost", number(policy.canary.cost)),
        ("latency", number(policy.canary.latency)),
    ]);
    let owner = if policy.owner == rollout::Owner::External { "external" } else { "longshore" };
    let parts = [
        ("owner", text(owner)),
        ("surge", policy.surge.to_string()),
        ("batch", policy.batch.to_string()),
        ("hold", duration(policy.hold_ms)),
        ("ready", duration(policy.ready_ms)),
        ("deadline", duration(policy.deadline_ms)),
        ("crashes", policy.crashes.to_string()),
        ("canary", canary),
    ];
    out.line("rollout", inline(parts));
    if policy.pin_release {
        out.line("pin_release", "true".into());
    }
}

fn schedule(out: &mut Lines, schedule: &Schedule) {
    out.table(&format!("schedule.{}", schedule.name));
    out.line("fleet", text(schedule.fleet.as_str()));
    out.line("cron", text(&schedule.cron));
    out.line("timezone", text(&schedule.timezone));
    let missed = match schedule.missed {
        Missed::Skip => "skip",
        Missed::Once => "once",
        Missed::All => "all",
    };
    out.line("missed", text(missed));
    if schedule.missed == Missed::All {
        out.line("missed_limit", schedule.missed_limit.to_string());
    }
    out.line("overlap", text(if schedule.overlap == Overlap::Skip { "skip" } else { "allow" }));
    out.line("paused", schedule.paused.to_string());
    of_task(out, schedule);
}

fn of_task(out: &mut Lines, schedule: &Schedule) {
    let input: serde_json::Value = schedule.input.read().unwrap_or_default();
    if !input.is_null() {
        out.line("input", plain(&input));
    }
    if let Some(conversation) = &schedule.conversation {
        out.line("conversation", text(conversation.as_str()));
    }
    out.line("priority", schedule.priority.to_string());
    if let Some(ms) = schedule.timeout_ms {
        out.line("timeout", duration(ms));
    }
    if let Some(attempts) = schedule.max_attempts {
        out.line("max_attempts", attempts.to_string());
    }
    if let Some(choice) = schedule.on_interrupt {
        out.line("on_interrupt", text(on_interrupt(choice)));
    }
    out.line("labels", inline(schedule.labels.iter().map(|(name, value)| (name.as_str(), text(value)))));
}

/// JSON as TOML writes it; there is no null, since it came from TOML.
fn plain(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::String(value) => text(value),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => inline(map.iter().map(|(name, value)| (name.as_str(), plain(value)))),
        // Rust writes decimals without an exponent, and a fraction where there is none.
        Value::Number(number) if number.is_f64() => format!("{:?}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// The query of its address may hold a token: it is cut off, since what is printed is for people.
fn webhook(out: &mut Lines, webhook: &Webhook) {
    out.table(&format!("webhook.{}", webhook.name));
    out.line("url", text(&webhook.shown_url()));
    let secrets: Vec<String> = webhook.secrets.iter().map(source).collect();
    out.line("secret", format!("[{}]", secrets.join(", ")));
    if !webhook.fleets.is_empty() {
        let fleets: Vec<String> = webhook.fleets.iter().map(ToString::to_string).collect();
        out.line("fleets", texts(&fleets));
    }
    let states: Vec<String> = webhook.states.iter().map(|state| state.as_str().to_owned()).collect();
    out.line("states", texts(&states));
    out.line("allow_private", webhook.allow_private.to_string());
}

fn on_interrupt(choice: OnInterrupt) -> &'static str {
    match choice {
        OnInterrupt::Resume => "resume",
        OnInterrupt::Fail => "fail",
        OnInterrupt::Ask => "ask",
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn table(&mut self, name: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{gap}[{name}]");
    }

    fn line(&mut self, key: &str, value: String) {
        let _ = writeln!(self.0, "{key} = {value}");
    }
}

fn inline<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{} = {value}", key(name))).collect();
    if pairs.is_empty() { "{}".into() } else { format!("{{ {} }}", pairs.join(", ")) }
}

/// A key as TOML writes it: bare where it can be.
pub(super) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { text(name) }
}

/// A basic string on one line.
fn text(value: &str) -> String {
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn texts(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| text(value)).collect();
    format!("[{}]", values.join(", "))
}

fn duration(ms: u64) -> String {
    text(&show_duration(ms))
}

fn kept(ms: Option<u64>) -> String {
    ms.map_or_else(|| text("never"), duration)
}

/// Never with an exponent, which TOML reads only after a fraction.
fn number(value: f64) -> String {
    format!("{value}")
}

fn source(source: &SecretSource) -> String {
    match source {
        SecretSource::Env(name) => inline([("env", text(name))]),
        SecretSource::File(path) => inline([("file", text(path))]),
    }
}
