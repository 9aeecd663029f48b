//! Merges an owner's own YAML into what is rendered, and sees to it that what longshore needs is still there.
//!
//! A document without `kind`, or of kind Pod, is laid over the pods; any other over the object of that kind.

use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::{AGENT, CONTROL_PLANE};
use longshore_core::rollout::Owner;
use serde_json::Value;

use super::merge::merge;
use super::pod::{INJECTED_DIR, SUPERVISOR};
use super::{Problem, Scene, prepull, yaml};
use crate::kubernetes::Template;

/// What the owner of the overlay may not change.
struct Fixed {
    kind: String,
    name: String,
    /// Of our container in its pods, where it has pods.
    container: &'static str,
    /// The number of pods is somebody else's.
    scaled: bool,
    /// What each release writes of its pods again; null: none does.
    released: Value,
}

pub(super) fn apply_to_fleet(
    scene: &Scene<'_>,
    fleet: &Fleet,
    objects: &mut [Value],
) -> Result<(), Vec<Problem>> {
    let key = format!("fleet.{}.kubernetes.overlay", fleet.name);
    // Where Git owns rollouts, longshore writes no release.
    let ours = fleet.rollout.owner == Owner::Longshore;
    let template = Template::of(fleet, Some("")).filter(|_| ours);
    let released = template.map(|it| it.apply(fleet.name.as_str())["spec"]["template"].take());
    apply(scene, (&key, fleet.overlay.as_deref()), objects, AGENT, &released.unwrap_or_default())
}

pub(super) fn apply_to_plane(scene: &Scene<'_>, objects: &mut [Value]) -> Result<(), Vec<Problem>> {
    let overlay = scene.settings.kubernetes.overlay.as_deref();
    apply(scene, ("kubernetes.overlay", overlay), objects, CONTROL_PLANE, &Value::Null)
}

fn apply(
    scene: &Scene<'_>,
    (key, overlay): (&str, Option<&str>),
    objects: &mut [Value],
    container: &'static str,
    released: &Value,
) -> Result<(), Vec<Problem>> {
    let Some(path) = overlay else { return Ok(()) };
    let Some(text) = scene.request.overlays.get(path) else {
        return Err(vec![Problem::new(key, format!("`{path}` was not brought along"))]);
    };
    let documents = yaml::read_all(text).map_err(|error| vec![Problem::new(path, error.to_string())])?;
    let before: Vec<(Fixed, Value)> =
        objects.iter().map(|object| (Fixed::of(object, container, released), object.clone())).collect();
    let mut problems = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let place = match documents.len() {
            1 => path.to_owned(),
            _ => format!("{path}, document {}", index + 1),
        };
        problems.extend(lay(objects, document, &place));
    }
    for ((fixed, before), after) in before.iter().zip(objects.iter()) {
        problems.extend(
            fixed
                .check(before, after)
                .into_iter()
                .map(|problem| Problem::new(path, format!("{} `{}`: {problem}", fixed.kind, fixed.name))),
        );
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn lay(objects: &mut [Value], document: &Value, place: &str) -> Vec<Problem> {
    let Some(fields) = document.as_object() else {
        return vec![Problem::new(
            place,
            "is no mapping: expected a pod's `metadata` and `spec`, or an object with its `kind`",
        )];
    };
    let clashes = match document["kind"].as_str() {
        None | Some("Pod") => {
            let known = ["apiVersion", "kind", "metadata", "spec"];
            if let Some(odd) = fields.keys().find(|key| !known.contains(&key.as_str())) {
                let problem = format!(
                    "`{odd}` is none of a pod's keys, `metadata` and `spec`; for another object say its `kind`"
                );
                return vec![Problem::new(place, problem)];
            }
            let Some(workload) = objects.iter_mut().find(|object| object["kind"] == "Deployment") else {
                return vec![Problem::new(place, "there are no pods here")];
            };
            let mut patch = document.clone();
            for key in ["apiVersion", "kind"] {
                patch.as_object_mut().expect("it was looked into").remove(key);
            }
            merge(&mut workload["spec"]["template"], &patch)
        }
        // Rendered on request only; what is said of it waits for that.
        Some(prepull::KIND) if !objects.iter().any(|object| object["kind"] == prepull::KIND) => {
            return Vec::new();
        }
        Some(kind) => match find(objects, kind, document) {
            Ok(object) => merge(object, document),
            Err(problem) => return vec![Problem::new(place, problem)],
        },
    };
    let told = |path: String| if path.is_empty() { place.to_owned() } else { format!("{place}: {path}") };
    clashes.into_iter().map(|clash| Problem::new(told(clash.path), clash.problem)).collect()
}

/// The object that a document is about: of its kind, and of its name if it says one.
fn find<'a>(objects: &'a mut [Value], kind: &str, document: &Value) -> Result<&'a mut Value, String> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let kinds: Vec<String> = objects
        .iter()
        .map(|object| format!("{} `{}`", object["kind"].as_str().unwrap_or_default(), name(object)))
        .collect();
    let wanted = document["metadata"]["name"].as_str();
    let fits = |object: &Value| object["kind"] == kind && wanted.is_none_or(|wanted| name(object) == wanted);
    let mut found = objects.iter_mut().filter(|object| fits(object));
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        (Some(_), Some(_)) => Err(format!("there are several of kind {kind}: say which in `metadata.name`")),
        (None, _) => {
            let named = wanted.map(|wanted| format!(" `{wanted}`")).unwrap_or_default();
            Err(format!("no {kind}{named} is rendered here; there are {}", kinds.join(", ")))
        }
    }
}

impl Fixed {
    fn of(object: &Value, container: &'static str, released: &Value) -> Fixed {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let scaled = kind == "Deployment" && object["spec"].get("replicas").is_none();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let released = if kind == "Deployment" { released.clone() } else { Value::Null };
        Fixed { container, scaled, kind, name, released }
    }

    /// Errors: what must not be as it is now, in words.
    fn check(&self, before: &Value, after: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        for path in ["/apiVersion", "/metadata/name", "/metadata/namespace", "/spec/selector"] {
            if before.pointer(path) != after.pointer(path) {
                let path = path[1..].replace('/', ".");
                wrong.push(format!(
                    "`{path}` is not the overlay's to change: what finds it would not find it any more"
                ));
            }
        }
        if self.scaled && after["spec"].get("replicas").is_some() {
            wrong.push("`spec.replicas` belongs to whoever scales the fleet: leave it out, and set `scaling.min` and `max`".into());
        }
        if self.kind == "Deployment" {
            wrong.extend(self.check_pods(before, after));
        }
        wrong
    }

    /// Whether longshore is still what our container starts with, and is put there where its image does not hold it.
    fn check_first(&self, before: &Value, after: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let ours = |pod: &Value| of_name(pod, "containers", self.container).cloned().unwrap_or_default();
        let (had, has) = (ours(before), ours(after));
        if had.get("command") != has.get("command") {
            wrong.push(format!(
                "`command` of its container `{}` is longshore, which has to be the first process: leave it out{}",
                self.container,
                if self.container == AGENT { ", and set `command` in longshore.toml" } else { "" }
            ));
        }
        let Some(supervisor) = of_name(before, "initContainers", SUPERVISOR) else { return wrong };
        let mount = |container: &Value| {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            mounts.into_iter().find(|it| it["mountPath"] == INJECTED_DIR).cloned()
        };
        let copies = of_name(after, "initContainers", SUPERVISOR).is_some_and(|now| {
            let same = |key: &str| now.get(key) == supervisor.get(key);
            same("args") && same("command") && mount(now) == mount(supervisor)
        });
        let finds = mount(&has) == mount(&had);
        let kept = of_name(after, "volumes", SUPERVISOR).is_some();
        if !(copies && finds && kept) {
            wrong.push(format!(
                "its init container `{SUPERVISOR}`, the volume of that name and where both containers have it, bring longshore into \
                 its pods: they have to stay; for an image that holds longshore set `supervisor = \"image\"`"
            ));
        }
        wrong
    }

    fn check_pods(&self, before: &Value, after: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let template = &after["spec"]["template"];
        let labels = &template["metadata"]["labels"];
        let wanted = after["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
        for (label, value) in wanted.filter(|(label, value)| labels.get(label.as_str()) != Some(value)) {
            wrong.push(format!("its pods need the label `{label}: {}`", value.as_str().unwrap_or_default()));
        }
        let containers = template["spec"]["containers"].as_array();
        if !containers.is_some_and(|all| all.iter().any(|one| one["name"] == self.container)) {
            wrong.push(format!("its container `{}` is longshore's own and has to stay", self.container));
            return wrong;
        }
        wrong.extend(self.check_first(&before["spec"]["template"]["spec"], &template["spec"]));
        let mut changed = Vec::new();
        changes(&self.released, &before["spec"]["template"], template, "spec.template", &mut changed);
        wrong.extend(changed.into_iter().map(|path| {
            let instead = match declared_as(&path) {
                Some(key) => format!("set `{key}` in longshore.toml"),
                None => "leave it out".into(),
            };
            format!("`{path}` is written again by every `longshore deploy`, without the overlay: {instead}")
        }));
        wrong
    }
}

/// What of a list has this name.
fn of_name<'a>(pod: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    pod[list].as_array()?.iter().find(|it| it["name"] == name)
}

/// Where an overlay has changed something that is in `written`.
fn changes(written: &Value, before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    let named = |value: &Value| value["name"].as_str().map(str::to_owned);
    let of_name = |list: &Value, name: &str| {
        let all = list.as_array().into_iter().flatten();
        all.into_iter().find(|it| it["name"] == name).cloned().unwrap_or_default()
    };
    match written {
        Value::Object(fields) => {
            for (key, value) in fields {
                changes(value, &before[key], &after[key], &format!("{path}.{key}"), found);
            }
        }
        // Merged by name, as the API server does it.
        Value::Array(items) if items.iter().all(|it| named(it).is_some()) => {
            for (item, name) in items.iter().filter_map(|it| Some((it, named(it)?))) {
                let (before, after) = (of_name(before, &name), of_name(after, &name));
                let path = format!("{path}[{name}]");
                // A variable has its value in one way or the other.
                match path.contains(".env[") && before != after {
                    true => found.push(path),
                    false => changes(item, &before, &after, &path, found),
                }
            }
        }
        Value::Null => {}
        _ if before != after => found.push(path.to_owned()),
        _ => {}
    }
}

/// The fleet's key for what a release writes there.
fn declared_as(path: &str) -> Option<&'static str> {
    let keys = [
        (".resources", "resources"),
        (".image", "image"),
        (".args", "command"),
        (".env[", "env"),
        (".terminationGracePeriodSeconds", "drain.timeout"),
    ];
    keys.into_iter().find(|(part, _)| path.contains(part)).map(|(_, key)| key)
}
