//! The same manifests as a Helm chart: what differs between one place and the next comes from values, whose keys are
//! those of longshore.toml.
//!
//! The control plane is given the values as overrides by its environment, so that it and the manifests never disagree.

use longshore_core::container::Image;
use longshore_core::fleet::{Fleet, Platform, ScaledBy};
use longshore_core::kubernetes::{AGENT, CONTROL_PLANE, DECLARATION, digest};
use serde_json::{Map, Value, json};

use super::control::LOGINS_VOLUME;
use super::pod::SUPERVISOR;
use super::{Problem, Request, env, print, print_one, render, scale};

/// A file of the chart: its path in it, and its text.
pub type ChartFile = (String, String);

/// Makes a chart of this file.
///
/// Errors: as [`render`].
pub fn chart(request: &Request<'_>) -> Result<Vec<ChartFile>, Vec<Problem>> {
    // What is wrong is said of the file, not of the words in it.
    render(request)?;
    let odd = odd_sizes(request);
    if !odd.is_empty() {
        return Err(odd);
    }
    let mut slots = Slots::default();
    let declared = slots.open(request);
    let mut rendered = render(&Request { declared: &declared, ..request.clone() })?;
    let fleets =
        || request.declared.settings.fleets.iter().filter(|fleet| fleet.platform == Platform::Kubernetes);
    for object in rendered.groups.iter_mut().flat_map(|group| &mut group.objects) {
        if object["kind"] == "Deployment" && object["metadata"]["name"] == CONTROL_PLANE {
            slots.fill_plane(object, request.declared.settings.kubernetes.replicas, fleets());
        }
        let name = object["metadata"]["name"].clone();
        if let Some(fleet) = fleets().find(|fleet| name == fleet.name.as_str()) {
            slots.fill_fleet(object, fleet);
        }
    }
    let templates: Vec<ChartFile> = rendered
        .groups
        .iter()
        .map(|group| (format!("templates/{}.yaml", group.name), slots.template(&print(&group.objects))))
        .collect();
    let values = values(request, |value| templates.iter().any(|(_, text)| text.contains(value)));
    let schema = serde_json::to_string_pretty(&schema(&values)).expect("values always serialise") + "\n";
    let head = "# The keys of longshore.toml that a place may have its own values of. All else is in the file that this chart\n\
                # was rendered from.\n";
    let mut files = vec![
        ("Chart.yaml".to_owned(), print_one(&description(request.version))),
        ("values.yaml".to_owned(), head.to_owned() + &print_one(&values)),
        ("values.schema.json".to_owned(), schema),
    ];
    files.extend(templates);
    Ok(files)
}

/// Sizes for which Kubernetes and longshore.toml have no common word: a value is read by both.
fn odd_sizes(request: &Request<'_>) -> Vec<Problem> {
    let fleets = request.declared.settings.fleets.iter();
    let sizes = fleets.filter(|fleet| fleet.platform == Platform::Kubernetes).flat_map(|fleet| {
        let resources = fleet.container.as_ref().map(|container| container.resources);
        let both = resources.map(|it| [("memory", it.memory), ("memory_limit", it.memory_limit)]);
        both.into_iter().flatten().map(move |(key, bytes)| (fleet, key, bytes))
    });
    let odd =
        sizes.filter(|(_, _, bytes)| super::pod::memory(*bytes).ends_with(|c: char| c.is_ascii_digit()));
    odd.map(|(fleet, key, bytes)| {
        Problem::new(
            format!("fleet.{}.resources.{key}", fleet.name),
            format!("{bytes} bytes are no whole number of k or Ki, as a chart needs it: round it, such as to \"{}Ki\"", bytes >> 10),
        )
    })
    .collect()
}

fn description(version: &str) -> Value {
    json!({
        "apiVersion": "v2",
        "name": CONTROL_PLANE,
        "description": "AI agents in containers, at any scale, without losing a task",
        "type": "application",
        "version": version,
        "appVersion": version,
    })
}

/// What the file says, for others to change; of the control plane's no more than has an effect, which an overlay may have taken.
fn values(request: &Request<'_>, is_used: impl Fn(&str) -> bool) -> Value {
    let settings = &request.declared.settings;
    let kubernetes = &settings.kubernetes;
    let mut own = json!({
        "image": kubernetes.image.as_ref().map(ToString::to_string),
        "image_pull_secrets": kubernetes.image_pull_secrets,
        "secret": kubernetes.secret,
        // Empty: `secret`.
        "store_secret": kubernetes.store_secret.as_deref().unwrap_or_default(),
        "replicas": kubernetes.replicas,
    });
    let own_values = own.as_object_mut().expect("a mapping");
    own_values.retain(|key, _| is_used(&format!(".Values.kubernetes.{key} ")));
    let mut fleets = Map::new();
    for fleet in settings.fleets.iter().filter(|fleet| fleet.platform == Platform::Kubernetes) {
        let resources = fleet.container.as_ref().map(|container| super::pod::resources(&container.resources));
        let amount = |kind: &str, of: &str| resources.as_ref().map(|resources| resources[kind][of].clone());
        let declared = json!({
            "image": fleet.image(),
            "scaling": { "min": fleet.scaling.min, "max": fleet.scaling.max },
            "resources": {
                "cpu": amount("requests", "cpu"),
                "cpu_limit": amount("limits", "cpu"),
                "memory": amount("requests", "memory"),
                "memory_limit": amount("limits", "memory"),
            },
        });
        fleets.insert(fleet.name.to_string(), declared);
    }
    json!({ "kubernetes": own, "fleet": fleets })
}

/// What Helm refuses before anything is applied: keys that are no values here, and what Kubernetes or longshore would not
/// read, each of which has the other's word for it.
fn schema(values: &Value) -> Value {
    let of = |value: &Value, known: &dyn Fn(&str) -> Value| {
        let keys = value.as_object().into_iter().flatten();
        let keys: Map<String, Value> = keys.map(|(key, _)| (key.clone(), known(key))).collect();
        json!({ "type": "object", "additionalProperties": false, "properties": keys })
    };
    let name = |pattern: String| json!({ "type": "string", "pattern": format!("^{pattern}$") });
    let image = json!({ "type": "string", "minLength": 1 });
    let own = |key: &str| match key {
        "image" => image.clone(),
        "image_pull_secrets" => json!({ "type": "array", "uniqueItems": true, "items": name(NAME.into()) }),
        "store_secret" => name(format!("({NAME})?")),
        "replicas" => json!({ "type": "integer", "minimum": 1, "maximum": 100 }),
        _ => name(NAME.into()),
    };
    let amount = |key: &str| match key {
        "cpu" | "cpu_limit" => {
            json!({ "type": ["string", "number"], "minimum": 0.001, "pattern": CORES })
        }
        _ => json!({ "type": "string", "pattern": "^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G)$" }),
    };
    let count =
        |key: &str| json!({ "type": "integer", "minimum": u32::from(key == "max"), "maximum": 10_000 });
    let fleet = |name: &str| {
        let values = &values["fleet"][name];
        of(values, &|key| match key {
            "image" => image.clone(),
            "scaling" => of(&values[key], &count),
            _ => of(&values[key], &amount),
        })
    };
    // One that is gone may be left in the values of a release before, which Helm takes over.
    let mut fleets = of(&values["fleet"], &fleet);
    fleets["additionalProperties"] = json!({ "type": "object" });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            // Where this is a part of another chart, Helm adds the one, and people say by the other whether it is.
            "global": {},
            "enabled": { "type": "boolean" },
            "kubernetes": of(&values["kubernetes"], &own),
            "fleet": fleets,
        },
    })
}

/// More than none, in thousandths at most.
const CORES: &str = r"^([1-9][0-9]*m|[1-9][0-9]*(\.[0-9]{1,3})?|0\.(00[1-9]|0[1-9][0-9]?|[1-9][0-9]{0,2}))$";

/// Of an object, as a pattern.
const NAME: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";

/// Words that stand for template expressions until the YAML is printed: printed as they are, without quotes.
#[derive(Default)]
struct Slots {
    expressions: Vec<String>,
    declarations: Vec<Declaration>,
}

/// The annotation of a fleet's pods that says which declaration they follow: only where the values are the file's own. Which
/// one it is with others the control plane alone can tell, and what this wrote there each upgrade would write again over it.
struct Declaration {
    condition: String,
    digest: String,
    /// The only annotation there.
    alone: bool,
}

/// Begins and ends each of them; no name can hold it twice by accident.
const EDGE: &str = "xslotx";

impl Slots {
    fn slot(&mut self, expression: impl Into<String>) -> String {
        self.expressions.push(expression.into());
        format!("{EDGE}{}{EDGE}", self.expressions.len() - 1)
    }

    /// The same settings with a word in the place of everything that has a value.
    fn open(&mut self, request: &Request<'_>) -> super::Declared {
        let mut declared = request.declared.clone();
        let kubernetes = &mut declared.settings.kubernetes;
        let mut own = |key: &str| self.slot(format!(".Values.kubernetes.{key} | quote"));
        kubernetes.image = kubernetes.image.as_ref().map(|_| named(own("image")));
        kubernetes.secret = own("secret");
        let store = "default .Values.kubernetes.secret .Values.kubernetes.store_secret | quote";
        kubernetes.store_secret = Some(self.slot(store));
        kubernetes.image_pull_secrets = vec![format!("{EDGE}pull{EDGE}")];
        kubernetes.namespace = Some(format!("{EDGE}namespace{EDGE}"));
        for fleet in
            declared.settings.fleets.iter_mut().filter(|fleet| fleet.platform == Platform::Kubernetes)
        {
            let image = self.slot(format!("{} | quote", of(fleet, "image")));
            if let Some(container) = &mut fleet.container {
                container.image = named(image);
            }
        }
        declared
    }

    fn fill_plane<'a>(
        &mut self,
        deployment: &mut Value,
        replicas: u32,
        fleets: impl Iterator<Item = &'a Fleet>,
    ) {
        self.fill_number(&mut deployment["spec"]["replicas"], replicas, "int .Values.kubernetes.replicas");
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array_mut();
        let logins = volumes.into_iter().flatten().find(|volume| volume["name"] == LOGINS_VOLUME);
        if let Some(logins) = logins {
            logins["projected"]["sources"] = format!("{EDGE}logins{EDGE}").into();
        }
        let Some(variables) = container(deployment, CONTROL_PLANE)["env"].as_array_mut() else { return };
        for fleet in fleets {
            for key in VALUES {
                let variable = key.replace('.', "__").to_uppercase();
                let name = fleet.name.as_str().replace('-', "_").to_uppercase();
                // A large number is written with an exponent otherwise.
                let whole = if key.starts_with("scaling") { "int " } else { "" };
                let value = self.slot(format!("{whole}{} | quote", of(fleet, key)));
                variables.push(env::value(&format!("LONGSHORE__FLEET__{name}__{variable}"), &value));
            }
        }
    }

    fn fill_fleet(&mut self, object: &mut Value, fleet: &Fleet) {
        let (min, max) = (
            format!("max 1 (int {})", of(fleet, "scaling.min")),
            format!("max 1 (int {})", of(fleet, "scaling.max")),
        );
        match (object["kind"].as_str(), fleet.scaling.by) {
            (Some("Deployment"), _) => self.fill_workers(object, fleet),
            (Some("HorizontalPodAutoscaler"), _) => {
                let spec = &mut object["spec"];
                self.fill_number(&mut spec["minReplicas"], scale::least(fleet), &min);
                self.fill_number(&mut spec["maxReplicas"], scale::most(fleet), &max);
                self.fill_behavior(&mut spec["behavior"], fleet, &max);
            }
            (Some("ScaledObject"), ScaledBy::Keda) => {
                let spec = &mut object["spec"];
                self.fill_number(&mut spec["minReplicaCount"], scale::least(fleet), &min);
                self.fill_number(&mut spec["maxReplicaCount"], scale::most(fleet), &max);
                let behavior = spec.pointer_mut("/advanced/horizontalPodAutoscalerConfig/behavior");
                behavior.into_iter().for_each(|behavior| self.fill_behavior(behavior, fleet, &max));
            }
            _ => {}
        }
    }

    /// Where an overlay says something else, it stays.
    fn fill_number(&mut self, there: &mut Value, declared: u32, expression: &str) {
        if *there == declared {
            *there = self.slot(expression).into();
        }
    }

    /// Likewise.
    fn fill_behavior(&mut self, behavior: &mut Value, fleet: &Fleet, max: &str) {
        let declared = scale::behavior(fleet);
        for direction in ["scaleUp", "scaleDown"] {
            let there = behavior.get_mut(direction).and_then(|it| it.get_mut("policies"));
            if let Some(policies) = there.filter(|it| **it == declared[direction]["policies"]) {
                policies[0]["value"] = self.slot(max).into();
            }
        }
    }

    fn fill_workers(&mut self, deployment: &mut Value, fleet: &Fleet) {
        // Of the file's own values; with others it follows another declaration, which its image tells.
        let keys = VALUES.iter().filter(|key| !key.starts_with("scaling"));
        let told: Vec<String> = keys.map(|key| of(fleet, key)).collect();
        let resources =
            fleet.container.as_ref().map(|it| super::pod::resources(&it.resources)).unwrap_or_default();
        let text = |kind: &str, of: &str| resources[kind][of].as_str().unwrap_or_default().to_owned();
        let file = [
            fleet.image().unwrap_or_default(),
            text("requests", "cpu"),
            text("limits", "cpu"),
            text("requests", "memory"),
            text("limits", "memory"),
        ];
        let condition = format!("eq (list {} | join \" \") {:?}", told.join(" "), file.join(" "));
        let annotations = &mut deployment["spec"]["template"]["metadata"]["annotations"];
        annotations[DECLARATION] = format!("{EDGE}declared{}{EDGE}", self.declarations.len()).into();
        let alone = annotations.as_object().is_some_and(|all| all.len() == 1);
        self.declarations.push(Declaration { condition, digest: digest(fleet), alone });
        let pod = &mut deployment["spec"]["template"]["spec"];
        for (list, name) in [("containers", AGENT), ("initContainers", SUPERVISOR)] {
            let containers = pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            for container in containers.filter(|container| container["name"] == name) {
                self.fill_resources(&mut container["resources"], &resources, fleet);
            }
        }
    }

    /// Where an overlay says something else, it stays.
    fn fill_resources(&mut self, there: &mut Value, declared: &Value, fleet: &Fleet) {
        for (kind, what, key) in [
            ("requests", "cpu", "resources.cpu"),
            ("limits", "cpu", "resources.cpu_limit"),
            ("requests", "memory", "resources.memory"),
            ("limits", "memory", "resources.memory_limit"),
        ] {
            if there[kind][what] == declared[kind][what] {
                there[kind][what] = self.slot(format!("{} | quote", of(fleet, key))).into();
            }
        }
    }

    /// Puts the expressions where their words are.
    fn template(&self, yaml: &str) -> String {
        let mut text = yaml.replace("{{", "{{ \"{{\" }}");
        for (index, declaration) in self.declarations.iter().enumerate() {
            text = declaration.write(&text, &format!("{EDGE}declared{index}{EDGE}"));
        }
        for (index, expression) in self.expressions.iter().enumerate() {
            text = text.replace(&format!("{EDGE}{index}{EDGE}"), &format!("{{{{ {expression} }}}}"));
        }
        // One for each, however many there are: a list that is written like JSON fits on a line.
        text = text.replace(
            &format!("{EDGE}logins{EDGE}"),
            "[{{ range .Values.kubernetes.image_pull_secrets }}{ secret: { name: {{ . | quote }}, optional: true, items: [{ key: \
             .dockerconfigjson, path: {{ list . \"json\" | join \".\" | quote }} }] } }, {{ end }}]",
        );
        let namespace = format!("{EDGE}namespace{EDGE}");
        let pull = format!("- name: {EDGE}pull{EDGE}");
        let lines = text.lines().map(|line| match line.split_once(&pull) {
            Some((indent, _)) => format!(
                "{indent}{{{{- range .Values.kubernetes.image_pull_secrets }}}}\n{indent}- name: {{{{ . | quote }}}}\n\
                 {indent}{{{{- end }}}}\n"
            ),
            // Alone it may look like a number.
            None if line.ends_with(&format!(": {namespace}")) => {
                line.replace(&namespace, "{{ .Release.Namespace | quote }}") + "\n"
            }
            None => line.replace(&namespace, "{{ .Release.Namespace }}") + "\n",
        });
        lines.collect()
    }
}

impl Declaration {
    fn write(&self, yaml: &str, word: &str) -> String {
        let Some(line) = yaml.lines().find(|line| line.ends_with(word)) else { return yaml.to_owned() };
        let (Declaration { condition, digest, .. }, text) = (self, line.trim_start());
        let indent = &line[..line.len() - text.len()];
        let text = text.replace(word, &format!("{digest:?}"));
        let none =
            if self.alone { format!("{indent}{{{{- else }}}}\n{indent}{{}}\n") } else { String::new() };
        let written =
            format!("{indent}{{{{- if {condition} }}}}\n{indent}{text}\n{none}{indent}{{{{- end }}}}");
        yaml.replace(line, &written)
    }
}

/// A fleet's keys that have values.
const VALUES: [&str; 7] = [
    "image",
    "scaling.min",
    "scaling.max",
    "resources.cpu",
    "resources.cpu_limit",
    "resources.memory",
    "resources.memory_limit",
];

/// How a template names a fleet's key.
fn of(fleet: &Fleet, key: &str) -> String {
    match fleet.name.as_str() {
        name if name.contains('-') => format!("(index .Values.fleet {name:?}).{key}"),
        name => format!(".Values.fleet.{name}.{key}"),
    }
}

fn named(word: String) -> Image {
    Image { repository: word, tag: None, digest: None }
}

fn container<'a>(deployment: &'a mut Value, name: &str) -> &'a mut Value {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array_mut();
    let found = containers.into_iter().flatten().find(|container| container["name"] == name);
    found.expect("overlays leave our own container where it is")
}

#[cfg(test)]
mod tests;
