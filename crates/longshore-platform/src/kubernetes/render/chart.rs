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
use super::{Problem, Request, env, print, print_one, render};

/// A file of the chart: its path in it, and its text.
pub type ChartFile = (String, String);

/// Makes a chart of this file.
///
/// Errors: as [`render`].
pub fn chart(request: &Request<'_>) -> Result<Vec<ChartFile>, Vec<Problem>> {
    // What is wrong is said of the file, not of the words in it.
    render(request)?;
    let mut slots = Slots::default();
    let declared = slots.open(request);
    let mut rendered = render(&Request { declared: &declared, ..request.clone() })?;
    let fleets =
        || request.declared.settings.fleets.iter().filter(|fleet| fleet.platform == Platform::Kubernetes);
    for object in rendered.groups.iter_mut().flat_map(|group| &mut group.objects) {
        if object["kind"] == "Deployment" && object["metadata"]["name"] == CONTROL_PLANE {
            slots.fill_plane(object, fleets());
        }
        let name = object["metadata"]["name"].clone();
        if let Some(fleet) = fleets().find(|fleet| name == fleet.name.as_str()) {
            slots.fill_fleet(object, fleet);
        }
    }
    let mut files = vec![
        ("Chart.yaml".to_owned(), print_one(&description(request.version))),
        ("values.yaml".to_owned(), values(request)),
    ];
    for group in rendered.groups {
        let text = slots.template(&print(&group.objects));
        files.push((format!("templates/{}.yaml", group.name), text));
    }
    Ok(files)
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

/// What the file says, for others to change.
fn values(request: &Request<'_>) -> String {
    let settings = &request.declared.settings;
    let kubernetes = &settings.kubernetes;
    let mut own = json!({
        "image": kubernetes.image.as_ref().map(ToString::to_string),
        "image_pull_secrets": kubernetes.image_pull_secrets,
        "secret": kubernetes.secret,
        "replicas": kubernetes.replicas,
    });
    if let Some(secret) = &kubernetes.store_secret {
        own["store_secret"] = secret.as_str().into();
    }
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
    let head = "# The keys of longshore.toml that a place may have its own values of. All else is in the file that this chart\n\
                # was rendered from.\n";
    head.to_owned() + &print_one(&json!({ "kubernetes": own, "fleet": fleets }))
}

/// Words that stand for template expressions until the YAML is printed: printed as they are, without quotes.
#[derive(Default)]
struct Slots(Vec<String>);

/// Begins and ends each of them; no name can hold it twice by accident.
const EDGE: &str = "xslotx";

impl Slots {
    fn slot(&mut self, expression: impl Into<String>) -> String {
        self.0.push(expression.into());
        format!("{EDGE}{}{EDGE}", self.0.len() - 1)
    }

    /// The same settings with a word in the place of everything that has a value.
    fn open(&mut self, request: &Request<'_>) -> super::Declared {
        let mut declared = request.declared.clone();
        let kubernetes = &mut declared.settings.kubernetes;
        let mut own = |key: &str| self.slot(format!(".Values.kubernetes.{key} | quote"));
        kubernetes.image = kubernetes.image.as_ref().map(|_| named(own("image")));
        kubernetes.secret = own("secret");
        kubernetes.store_secret = kubernetes.store_secret.as_ref().map(|_| own("store_secret"));
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

    fn fill_plane<'a>(&mut self, deployment: &mut Value, fleets: impl Iterator<Item = &'a Fleet>) {
        deployment["spec"]["replicas"] = self.slot("int .Values.kubernetes.replicas").into();
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
                let value = self.slot(format!("{} | quote", of(fleet, key)));
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
                object["spec"]["minReplicas"] = self.slot(min).into();
                object["spec"]["maxReplicas"] = self.slot(max.as_str()).into();
                self.fill_behavior(&mut object["spec"]["behavior"], &max);
            }
            (Some("ScaledObject"), ScaledBy::Keda) => {
                object["spec"]["minReplicaCount"] = self.slot(min).into();
                object["spec"]["maxReplicaCount"] = self.slot(max.as_str()).into();
                self.fill_behavior(
                    &mut object["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
                    &max,
                );
            }
            _ => {}
        }
    }

    fn fill_behavior(&mut self, behavior: &mut Value, max: &str) {
        for direction in ["scaleUp", "scaleDown"] {
            if let Some(policy) = behavior[direction].pointer_mut("/policies/0") {
                policy["value"] = self.slot(max).into();
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
        let same = format!("eq (list {} | join \" \") {:?}", told.join(" "), file.join(" "));
        let annotation = self.slot(format!("ternary {:?} \"values\" ({same}) | quote", digest(fleet)));
        deployment["spec"]["template"]["metadata"]["annotations"][DECLARATION] = annotation.into();
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
        for (index, expression) in self.0.iter().enumerate() {
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
