//! What an image says of itself: user, environment, labels, history, how it starts.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::baked;
use crate::finding::{Code, Finding, Where};
use crate::secret;

/// The configuration of an image, as Docker and OCI write it; what is not asked about is left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub architecture: String,
    pub os: String,
    pub config: Option<Runtime>,
    pub history: Option<Vec<Step>>,
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    pub diff_ids: Vec<String>,
}

/// How a container of the image starts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Runtime {
    pub user: String,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub healthcheck: Option<Healthcheck>,
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    pub test: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Step {
    pub created_by: String,
    pub empty_layer: bool,
}

/// Labels that trace an image to what it was built from.
pub const LABELS: [&str; 4] = ["revision", "version", "source", "created"];

pub const LABEL_PREFIX: &str = "org.opencontainers.image.";

impl ImageConfig {
    pub fn runtime(&self) -> Runtime {
        self.config.clone().unwrap_or_default()
    }

    /// The steps that made each layer, secrets taken out; empty where the history does not fit the layers.
    pub fn steps(&self, layers: usize) -> Vec<String> {
        let steps = self.history.iter().flatten().filter(|step| !step.empty_layer);
        let told: Vec<String> = steps.map(|step| told(&step.created_by)).collect();
        if told.len() == layers { told } else { Vec::new() }
    }
}

impl Runtime {
    /// The first process and its arguments.
    pub fn command(&self) -> Vec<String> {
        let parts = [self.entrypoint.as_deref(), self.cmd.as_deref()];
        parts.into_iter().flatten().flatten().cloned().collect()
    }

    /// Whether longshore is the first process and works as a worker.
    pub fn is_worker(&self) -> bool {
        let command = self.command();
        let named = command.first().is_some_and(|first| crate::paths::name(first) == "longshore");
        named && command.get(1).is_some_and(|verb| verb == "worker")
    }
}

/// A step as it may be shown: without secrets, without Docker's own wrapping, short.
fn told(step: &str) -> String {
    let step = secret::redacted(step);
    let step = step.strip_prefix("/bin/sh -c #(nop) ").or(step.strip_prefix("/bin/sh -c ")).unwrap_or(&step);
    let words: Vec<&str> = step.split_whitespace().collect();
    let line = words.join(" ");
    match line.chars().count() {
        0..=100 => line,
        _ => line.chars().take(99).chain(['…']).collect(),
    }
}

pub fn check(config: &ImageConfig, passwd: Option<&str>) -> Vec<Finding> {
    let runtime = config.runtime();
    let mut findings = Vec::new();
    environment(&runtime, &mut findings);
    labels(&runtime, &mut findings);
    history(config, &mut findings);
    user(&runtime.user, passwd, &mut findings);
    start(&runtime, &mut findings);
    findings
}

fn environment(runtime: &Runtime, findings: &mut Vec<Finding>) {
    for variable in runtime.env.iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if let Some((code, what)) = variable_fault(name, value) {
            findings.push(Finding::new(code, Where::Env { name: name.to_owned() }, what));
        }
    }
}

/// What is wrong with a variable that an image sets; the Dockerfile's ENV is judged by the same.
pub fn variable_fault(name: &str, value: &str) -> Option<(Code, String)> {
    if let Some(what) = secret_in_value(name, value) {
        return Some((Code::SecretInEnv, what));
    }
    if value.is_empty() || baked::describes_the_image(name) {
        return None;
    }
    if let Some(model) = value.split(',').map(str::trim).find(|word| baked::is_model(word)) {
        return Some((Code::ModelInEnv, format!("the model `{model}`")));
    }
    if let Some(url) = baked::url_in(value, true, true) {
        return Some((Code::UrlInEnv, format!("the address `{url}`")));
    }
    Some((Code::ConfigInEnv, format!("`{name}` does not describe the image itself")))
}

fn secret_in_value(name: &str, value: &str) -> Option<String> {
    if let Some(found) = secret::find(value).first() {
        return Some(found.told());
    }
    if let Some(shown) = secret::password_in_url(value) {
        return Some(format!("a password in a URL ({shown})"));
    }
    if secret::is_secret_name(name) && !secret::is_filler(value) {
        return Some(format!("a value for `{name}`, which is called a secret"));
    }
    secret::is_high_entropy(value).then(|| format!("{} characters that look drawn by chance", value.len()))
}

fn labels(runtime: &Runtime, findings: &mut Vec<Finding>) {
    let none = BTreeMap::new();
    let labels = runtime.labels.as_ref().unwrap_or(&none);
    for (name, value) in labels {
        if let Some(what) = secret_in_value(name, value) {
            findings.push(Finding::new(Code::SecretInLabel, Where::Label { name: name.clone() }, what));
        }
    }
    let set =
        |name: &str| labels.get(&format!("{LABEL_PREFIX}{name}")).is_some_and(|value| !value.is_empty());
    let missing: Vec<String> =
        LABELS.iter().filter(|name| !set(name)).map(|name| format!("`{LABEL_PREFIX}{name}`")).collect();
    if !missing.is_empty() {
        let what = format!("without {}: it cannot be traced to a commit", missing.join(", "));
        findings.push(Finding::new(Code::MissingLabels, Where::Config, what));
    }
    let revision = format!("{LABEL_PREFIX}revision");
    if labels.get(&revision).is_some_and(|value| value.ends_with("-dirty")) {
        findings.push(Finding::new(
            Code::DirtyTree,
            Where::Label { name: revision },
            "built with changes that no commit has",
        ));
    }
}

fn history(config: &ImageConfig, findings: &mut Vec<Finding>) {
    for (index, step) in config.history.iter().flatten().enumerate() {
        let text = &step.created_by;
        let named = || {
            // ENV lines are told as the environment, which may have been overwritten since; ARGs are here only.
            let words = text.split_whitespace().filter_map(|word| word.split_once('='));
            words
                .filter(|(name, value)| secret::is_secret_name(name) && !secret::is_filler(value))
                .map(|(name, _)| name)
                .next()
        };
        let what = match (secret::find(text).first(), secret::password_in_url(text)) {
            (Some(found), _) => found.told(),
            (None, Some(shown)) => format!("a password in a URL ({shown})"),
            (None, None) => match named() {
                Some(name) => {
                    format!("a value for `{}`, which is called a secret", name.trim_start_matches('-'))
                }
                None => continue,
            },
        };
        findings.push(Finding::new(Code::SecretInHistory, Where::History { step: index + 1 }, what));
    }
}

fn user(user: &str, passwd: Option<&str>, findings: &mut Vec<Finding>) {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let number = |text: &str| text.parse::<u64>().ok();
    let at_root = |group: &str| group == "root" || number(group) == Some(0);
    let what = match name {
        "" => "it does not say as whom it runs: as root then".to_owned(),
        "root" => format!("it runs as `{user}`"),
        name if number(name) == Some(0) => format!("it runs as `{user}`, which is root"),
        name if number(name).is_none() && uid(passwd, name) == Some(0) => {
            format!("it runs as `{name}`, whose number in /etc/passwd is 0: root")
        }
        name if number(name).is_none() => {
            let what = format!("it runs as `{name}`, a name");
            findings.push(Finding::new(Code::UserByName, Where::Config, what));
            return;
        }
        _ if at_root(group) => format!("it runs as `{user}`, in root's group"),
        _ => return,
    };
    findings.push(Finding::new(Code::UserRoot, Where::Config, what));
}

fn uid(passwd: Option<&str>, name: &str) -> Option<u64> {
    let mut fields = passwd?.lines().map(|line| line.split(':'));
    fields.find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?)
}

fn start(runtime: &Runtime, findings: &mut Vec<Finding>) {
    let command = runtime.command();
    let shell = |words: &[String]| {
        let name = words.first().map(|word| crate::paths::name(word));
        matches!(name, Some("sh" | "bash" | "ash" | "dash")) && words.get(1).is_some_and(|flag| flag == "-c")
    };
    let mut add = |code, at, what: String| findings.push(Finding::new(code, at, what));
    for secret in secret::find(&command.join(" ")) {
        add(Code::SecretInCommand, Where::Command, secret.told());
    }
    let part = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    if command.is_empty() {
        add(Code::NoEntrypoint, Where::Config, "it has neither ENTRYPOINT nor CMD".into());
    } else if shell(&part(&runtime.entrypoint))
        || (part(&runtime.entrypoint).is_empty() && shell(&part(&runtime.cmd)))
    {
        add(Code::ShellEntrypoint, Where::Command, format!("its first process is a shell, `{}`", command[0]));
    } else if !runtime.is_worker() {
        let first: String = secret::redacted(&command[0]).chars().take(80).collect();
        add(
            Code::NotAWorker,
            Where::Command,
            format!("its first process is `{first}`, not `longshore worker`"),
        );
    }
    if let Some(model) = command.iter().find(|word| baked::is_model(word.rsplit('=').next().unwrap_or(word)))
    {
        add(Code::ModelInEnv, Where::Command, format!("the model `{model}`"));
    }
    let test =
        runtime.healthcheck.as_ref().and_then(|check| check.test.as_ref()).filter(|test| !test.is_empty());
    match test {
        None => add(Code::NoHealthcheck, Where::Config, "it has no HEALTHCHECK".into()),
        Some(test) if test[0] == "NONE" => {
            add(Code::NoHealthcheck, Where::Config, "its HEALTHCHECK is NONE".into())
        }
        Some(_) => {}
    }
    for path in runtime.volumes.iter().flatten().map(|(path, _)| path) {
        add(
            Code::Volume,
            Where::Config,
            format!("`{path}` is a volume: it is kept outside of the image, for each container anew"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const GOOD: &str = r#"{"User":"10001","Entrypoint":["/usr/local/bin/longshore","worker","--","python","agent.py"],
        "Env":["PATH=/usr/bin","PYTHONPATH=/deps"],"Healthcheck":{"Test":["CMD","longshore","probe","live"]},
        "Labels":{"org.opencontainers.image.revision":"4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        "org.opencontainers.image.version":"1.4.2","org.opencontainers.image.source":"https://git.example/acme/agent",
        "org.opencontainers.image.created":"2026-11-24T10:00:00Z"}}"#;

    fn check(change: Value, expected: &[&str]) {
        let mut runtime: Value = serde_json::from_str(GOOD).expect("JSON");
        for (key, value) in change.as_object().expect("an object") {
            runtime[key] = value.clone();
        }
        let config = ImageConfig {
            config: Some(serde_json::from_value(runtime).expect("a configuration")),
            ..ImageConfig::default()
        };
        let passwd = "root:x:0:0::/root:/bin/sh\nboss:x:0:0::/:/bin/sh\nagent:x:10001:10001::/:/bin/sh\n";
        let findings = super::check(&config, Some(passwd));
        let told: Vec<String> = findings.iter().map(|found| format!("{} {}", found.code, found.at)).collect();
        assert_eq!(told, expected, "{change}");
    }

    #[test]
    fn an_image_of_ours_has_no_fault() {
        check(json!({}), &[]);
    }

    #[test]
    fn root_is_root_by_any_name() {
        for user in ["", "root", "0", "0:0", "root:root", "00", "boss", "10001:0"] {
            check(json!({"User": user}), &["user_root configuration"]);
        }
        check(json!({"User": "agent"}), &["user_by_name configuration"]);
        check(json!({"User": "10001:10001"}), &[]);
    }

    #[test]
    fn each_variable_has_its_worst_fault_only() {
        let env = json!({"Env": [
            "PATH=/usr/bin", "OPENAI_API_KEY=hunter22", "MODEL=gpt-5-mini", "ORDERS=http://orders:80/", "LOG_LEVEL=debug", "EMPTY=",
            "DATABASE_URL=postgres://app:h8Kq2mZ@db/x", "OPENAI_API_KEY_FILE=/run/secrets/openai",
        ]});
        check(
            env,
            &[
                "secret_in_env ENV OPENAI_API_KEY",
                "model_in_env ENV MODEL",
                "url_in_env ENV ORDERS",
                "config_in_env ENV LOG_LEVEL",
                "secret_in_env ENV DATABASE_URL",
                "config_in_env ENV OPENAI_API_KEY_FILE",
            ],
        );
    }

    #[test]
    fn the_first_process_is_longshore_and_no_shell() {
        check(
            json!({"Entrypoint": ["/bin/sh", "-c", "longshore worker"]}),
            &["shell_entrypoint ENTRYPOINT and CMD"],
        );
        check(
            json!({"Entrypoint": null, "Cmd": ["/bin/sh", "-c", "x"]}),
            &["shell_entrypoint ENTRYPOINT and CMD"],
        );
        check(json!({"Entrypoint": null, "Cmd": null}), &["no_entrypoint configuration"]);
        check(json!({"Entrypoint": ["python", "a.py"]}), &["not_a_worker ENTRYPOINT and CMD"]);
        check(json!({"Healthcheck": {"Test": ["NONE"]}}), &["no_healthcheck configuration"]);
        check(json!({"Volumes": {"/data": {}}}), &["volume configuration"]);
    }

    #[test]
    fn labels_trace_to_a_commit() {
        check(json!({"Labels": null}), &["missing_labels configuration"]);
    }

    #[test]
    fn secrets_of_build_arguments_are_in_the_history() {
        let step = |text: &str| Step { created_by: text.into(), empty_layer: false };
        let config = ImageConfig {
            history: Some(vec![
                step("COPY . ."),
                step("RUN |1 PIP_TOKEN=q7Rk2ZpV9xTb /bin/sh -c pip install x # buildkit"),
            ]),
            ..ImageConfig::default()
        };
        let mut findings = Vec::new();
        history(&config, &mut findings);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].at, Where::History { step: 2 });
        assert!(!config.steps(2).concat().contains("q7Rk2"));
    }
}
