//! Merges an owner's own YAML into what is rendered, and sees to it that what longshore needs is still there.
//!
//! A document without `kind`, or of kind Pod, is laid over the pods; any other over the object of that kind.

use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::{AGENT, CONTROL_PLANE};
use serde_json::Value;

use super::merge::merge;
use super::{Problem, Scene, prepull, yaml};

/// What the owner of the overlay may not change.
struct Fixed {
    kind: String,
    name: String,
    /// Of our container in its pods, where it has pods.
    container: &'static str,
    /// The number of pods is somebody else's.
    scaled: bool,
}

pub(super) fn apply_to_fleet(
    scene: &Scene<'_>,
    fleet: &Fleet,
    objects: &mut [Value],
) -> Result<(), Vec<Problem>> {
    let key = format!("fleet.{}.kubernetes.overlay", fleet.name);
    apply(scene, &key, fleet.overlay.as_deref(), objects, AGENT)
}

pub(super) fn apply_to_plane(scene: &Scene<'_>, objects: &mut [Value]) -> Result<(), Vec<Problem>> {
    let overlay = scene.settings.kubernetes.overlay.as_deref();
    apply(scene, "kubernetes.overlay", overlay, objects, CONTROL_PLANE)
}

fn apply(
    scene: &Scene<'_>,
    key: &str,
    overlay: Option<&str>,
    objects: &mut [Value],
    container: &'static str,
) -> Result<(), Vec<Problem>> {
    let Some(path) = overlay else { return Ok(()) };
    let Some(text) = scene.request.overlays.get(path) else {
        return Err(vec![Problem::new(key, format!("`{path}` was not brought along"))]);
    };
    let documents = yaml::read_all(text).map_err(|error| vec![Problem::new(path, error.to_string())])?;
    let before: Vec<(Fixed, Value)> =
        objects.iter().map(|object| (Fixed::of(object, container), object.clone())).collect();
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
    fn of(object: &Value, container: &'static str) -> Fixed {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let scaled = kind == "Deployment" && object["spec"].get("replicas").is_none();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Fixed { container, scaled, kind, name }
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
            wrong.extend(self.check_pods(after));
        }
        wrong
    }

    fn check_pods(&self, after: &Value) -> Vec<String> {
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
        }
        wrong
    }
}
