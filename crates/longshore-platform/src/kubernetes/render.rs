//! `longshore render kubernetes`: the manifests of a control plane and its fleets, from longshore.toml alone.
//!
//! Values in, values out: reads no file and no environment, so that the same file gives the same manifests everywhere.
//! What number of workers there is, and which image they run after a deploy, is no part of them: others write that.

mod chart;
mod control;
mod env;
mod fits;
mod fleet;
mod harden;
mod keda;
mod merge;
mod meta;
mod network;
mod overlay;
pub(super) mod pod;
mod prepull;
mod rbac;
mod read;
mod scale;
#[cfg(test)]
mod tests;
mod weak;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;

use longshore_core::fleet::{Fleet, Platform, ScaledBy};
use longshore_core::id::FleetName;
use longshore_core::settings::{FleetsFrom, Settings, Tls};
use serde_json::Value;

pub use chart::{ChartFile, chart};
pub(super) use env::unescaped;
pub(super) use fleet::rolled;
pub use read::{Declared, read};
pub use yaml::{ReadError, print, print_one};

/// Where everything is unless the settings say otherwise.
pub const NAMESPACE: &str = "longshore";

/// What is to be rendered.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub declared: &'a Declared,
    /// The file's own text: control planes are given it as it stands.
    pub config: &'a str,
    /// By the path that the settings name them with.
    pub overlays: &'a BTreeMap<String, String>,
    /// Of longshore.
    pub version: &'a str,
    /// These and nothing else; empty: all of them, and the control plane.
    pub only: &'a [FleetName],
    /// With a DaemonSet for each fleet that keeps its image on every node.
    pub prepull: bool,
}

/// What goes into one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub objects: Vec<Value>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    pub groups: Vec<Group>,
    /// What works, but that its owner should know something about.
    pub warnings: Vec<Problem>,
}

/// What keeps a setting from being rendered, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The path of the key, such as `fleet.research.secrets.KEY`, or an overlay's file and place.
    pub key: String,
    pub problem: String,
}

impl Problem {
    fn new(key: impl Into<String>, problem: impl Into<String>) -> Problem {
        Problem { key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// What every part of it looks at.
struct Scene<'a> {
    request: &'a Request<'a>,
    settings: &'a Settings,
    namespace: &'a str,
    /// All that run in the cluster, whichever are asked for.
    fleets: Vec<&'a Fleet>,
}

impl<'a> Scene<'a> {
    fn new(request: &'a Request<'a>) -> Scene<'a> {
        let settings = &request.declared.settings;
        let fleets = settings.fleets.iter().filter(|fleet| fleet.platform == Platform::Kubernetes).collect();
        let namespace = settings.kubernetes.namespace.as_deref().unwrap_or(NAMESPACE);
        Scene { request, settings, namespace, fleets }
    }

    fn scaled(&self, by: ScaledBy) -> impl Iterator<Item = &&'a Fleet> {
        self.fleets.iter().filter(move |fleet| fleet.scaling.by == by)
    }

    fn has(&self, by: ScaledBy) -> bool {
        self.scaled(by).next().is_some()
    }
}

/// Renders what is asked for.
///
/// Errors: everything that is in the way, each with its key and what to do.
pub fn render(request: &Request<'_>) -> Result<Rendered, Vec<Problem>> {
    let scene = Scene::new(request);
    let (mut rendered, mut problems) = (Rendered::default(), Vec::new());
    let mut keep = |made: Result<Group, Vec<Problem>>| match made {
        Ok(group) => rendered.groups.extend((!group.objects.is_empty()).then_some(group)),
        Err(found) => problems.extend(found),
    };
    if request.only.is_empty() {
        keep(control::render(&scene));
        keep(Ok(rbac::render(&scene)));
        keep(Ok(scale::metrics(&scene)));
    }
    let wanted = |fleet: &&&Fleet| request.only.is_empty() || request.only.contains(&fleet.name);
    for fleet in scene.fleets.iter().filter(wanted) {
        keep(fleet::render(&scene, fleet));
    }
    problems.extend(unknown(&scene));
    problems.sort();
    problems.dedup();
    if !problems.is_empty() {
        return Err(problems);
    }
    rendered.warnings = warnings(&scene);
    rendered.warnings.extend(rendered.groups.iter().flat_map(|group| weak::found(&group.objects)));
    Ok(rendered)
}

/// Fleets that are asked for and are none of this cluster's.
fn unknown(scene: &Scene<'_>) -> Vec<Problem> {
    let here: Vec<&str> = scene.fleets.iter().map(|fleet| fleet.name.as_str()).collect();
    let missing = scene.request.only.iter().filter(|name| !here.contains(&name.as_str()));
    let why = |name: &FleetName| match scene.settings.fleets.iter().find(|fleet| fleet.name == *name) {
        Some(fleet) => format!(
            "is of platform `{}`: set `platform = \"kubernetes\"`, or leave it out",
            fleet.platform.as_str()
        ),
        None if here.is_empty() => "there is no such fleet, and none of platform `kubernetes`".into(),
        None => format!("there is no such fleet; of platform `kubernetes` are `{}`", here.join("`, `")),
    };
    missing.map(|name| Problem::new(format!("fleet.{name}"), why(name))).collect()
}

/// Beyond this the cluster autoscaler kills a pod whose node it removes, whatever the pod's own grace is.
const AUTOSCALER_GRACE_MS: u64 = 600_000;

fn warnings(scene: &Scene<'_>) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for fleet in &scene.settings.fleets {
        let warn = |key: &str, problem: String| Problem::new(format!("fleet.{}.{key}", fleet.name), problem);
        match fleet.platform {
            Platform::Kubernetes if fleet.drain.timeout_ms > AUTOSCALER_GRACE_MS => warnings.push(warn(
                "drain.timeout",
                "longer than 10 minutes: the cluster autoscaler waits no longer than that unless its \
                 --max-graceful-termination-sec says so; tasks are then interrupted and run again elsewhere"
                    .into(),
            )),
            Platform::Process | Platform::Docker | Platform::Compose => warnings.push(warn(
                "platform",
                format!(
                    "`{}`: nothing is rendered for it, and a control plane in a pod starts no such workers",
                    fleet.platform.as_str()
                ),
            )),
            Platform::Kubernetes | Platform::External => {}
        }
        warnings.extend(keda::warning(scene, fleet));
    }
    if scene.settings.server.fleets == FleetsFrom::Api && !scene.fleets.is_empty() {
        warnings.push(Problem::new(
            "server.fleets",
            "\"api\": control planes know of no fleet from this file, and pods wait for the Secret to join with until \
             `longshore apply` has declared theirs",
        ));
    }
    if scene.settings.server.tls == Tls::Off && !scene.fleets.is_empty() {
        warnings.push(Problem::new(
            "server.tls",
            "off: keys, tasks and LLM calls cross the cluster's network as they are; `tls = \"auto\"` encrypts them",
        ));
    }
    if scene.fleets.is_empty() {
        warnings.push(Problem::new(
            "fleet",
            "none is of platform `kubernetes`: only the control plane is rendered",
        ));
    }
    warnings
}
