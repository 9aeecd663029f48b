//! Reads what a fleet says about its containers: `image`, `supervisor`, `egress`, `resources`.

use super::super::resolve;
use super::super::section::{Section, text_of};
use super::super::tree::{Node, Value};
use crate::container::{Container, Destination, Egress, Image, Resources, Supervisor};
use crate::fleet::{Fleet, Platform, is_service};

const IMAGE: &str =
    "an image such as \"registry.internal/research:1.4\" or { repository = \"registry.internal/research\" }";

/// `None`: the platform has no containers.
pub(super) fn read(section: &mut Section<'_>, platform: Platform) -> Option<Container> {
    if !platform.has_containers() {
        for key in ["image", "supervisor", "egress", "resources"] {
            if section.take(key).is_some() {
                let problem = format!("not used: platform `{}` starts no containers", platform.as_str());
                section.warn(key, &problem);
            }
        }
        return None;
    }
    let image = read_image(section);
    let supervisors = [("image", Supervisor::Image), ("inject", Supervisor::Inject)];
    let supervisor = section.choice("supervisor", &supervisors, &[]).unwrap_or_default();
    let egress = read_egress(section, platform);
    let resources = read_resources(section);
    Some(Container { image: image?, image_id: None, supervisor, egress, resources })
}

/// The compose service whose replicas the fleet's workers are; of its own name unless it says otherwise.
pub(super) fn read_service(section: &mut Section<'_>, fleet: &Fleet) -> Option<String> {
    let service = section.text("service", "the name of a service in the compose file");
    if fleet.platform != Platform::Compose {
        if service.is_some() {
            let problem =
                format!("not used: only platform `compose` has services, not `{}`", fleet.platform.as_str());
            section.warn("service", &problem);
        }
        return None;
    }
    if service.as_deref().is_some_and(|name| !is_service(name)) {
        section.error("service", "no name of a service: expected letters, digits and . _ -".into());
    }
    for (key, set) in [("env", !fleet.env.is_empty()), ("secrets", !fleet.secrets.is_empty())] {
        if set {
            section.warn(
                key,
                "not used: with platform `compose` the compose file gives workers their environment",
            );
        }
    }
    Some(service.unwrap_or_else(|| fleet.name.to_string()))
}

fn read_image(section: &mut Section<'_>) -> Option<Image> {
    let Some(node) = section.take("image") else {
        section.error("image", format!("missing: it says what a container is made of; {IMAGE}"));
        return None;
    };
    if let Value::Table(_) = node.value {
        return read_image_table(section, node);
    }
    match text_of(&node) {
        Some(text) => match Image::parse(&text) {
            Ok(image) => Some(image),
            Err(problem) => {
                section.error("image", problem);
                None
            }
        },
        None => section.wrong(&node, "image", IMAGE),
    }
}

fn read_image_table(section: &mut Section<'_>, node: Node) -> Option<Image> {
    let mut table = section.open("image", node, IMAGE)?;
    let repository = table.text("repository", "an image's name such as \"registry.internal/research\"");
    let tag = table.text("tag", "a tag such as \"1.4\"");
    if !table.was_given("repository") {
        table.error("repository", format!("missing: {IMAGE}"));
    }
    table.later(&["keep", "prune"]);
    let parsed = repository.map(|repository| {
        let image = Image::parse(&repository)?;
        let tagged = tag.as_ref().map(|tag| Image::parse(&format!("{}:{tag}", image.repository)));
        match tagged {
            Some(_) if image.tag.is_some() || image.digest.is_some() => {
                Err("names a tag or digest already: leave `tag` out".into())
            }
            Some(tagged) => tagged,
            None => Ok(image),
        }
    });
    let image = match parsed {
        Some(Ok(image)) => Some(image),
        Some(Err(problem)) => {
            table.error("repository", problem);
            None
        }
        None => None,
    };
    table.finish();
    image
}

fn read_egress(section: &mut Section<'_>, platform: Platform) -> Egress {
    let Some(node) = section.take("egress") else { return Egress::Open };
    let expected = "\"open\" or \"closed\"";
    match (&node.value, text_of(&node).as_deref()) {
        (_, Some("open")) => Egress::Open,
        (_, Some("closed")) => Egress::Closed,
        (Value::Array(_), _) if platform != Platform::Kubernetes => {
            let problem =
                "a list of addresses needs platform `kubernetes`; Docker's networks are open or closed";
            section.error("egress", format!("{problem}: expected {expected}"));
            Egress::Closed
        }
        (Value::Array(items), _) => Egress::Only(read_destinations(section, items)),
        _ => {
            section.wrong::<()>(&node, "egress", expected);
            Egress::Closed
        }
    }
}

fn read_destinations(section: &mut Section<'_>, items: &[Node]) -> Vec<Destination> {
    let mut read = Vec::new();
    for item in items {
        match text_of(item).map(|text| Destination::parse(&text)) {
            Some(Ok(destination)) => read.push(destination),
            Some(Err(problem)) => section.error_in(item.place.clone(), "egress", problem),
            None => drop(section.wrong::<()>(item, "egress", "an address such as \"10.0.0.0/8:5432\"")),
        }
    }
    read.sort();
    read.dedup();
    read
}

/// What `longshore render` merges into the fleet's manifests.
pub(super) fn read_overlay(section: &mut Section<'_>, platform: Platform, base_dir: &str) -> Option<String> {
    let mut kubernetes = section.section("kubernetes")?;
    let overlay = kubernetes.text("overlay", "the path of a YAML file such as \"pod.yaml\"");
    kubernetes.finish();
    if platform != Platform::Kubernetes {
        let problem = format!("not used: the fleet is of platform `{}`", platform.as_str());
        section.warn("kubernetes", &problem);
        return None;
    }
    overlay.map(|path| resolve(base_dir, &path))
}

/// What is not declared follows what is: a limit is never below what is promised, nor the promise above the limit.
fn read_resources(section: &mut Section<'_>) -> Resources {
    let default = Resources::default();
    let Some(mut section) = section.section("resources") else { return default };
    let (cpu, cpu_limit) = (section.cpu("cpu"), section.cpu("cpu_limit"));
    let (memory, memory_limit) = (section.size("memory"), section.size("memory_limit"));
    let resources = Resources {
        cpu: cpu.unwrap_or(default.cpu.min(cpu_limit.unwrap_or(u32::MAX))),
        cpu_limit: cpu_limit.unwrap_or(default.cpu_limit.max(cpu.unwrap_or(0))),
        memory: memory.unwrap_or(default.memory.min(memory_limit.unwrap_or(u64::MAX))),
        memory_limit: memory_limit.unwrap_or(default.memory_limit.max(memory.unwrap_or(0))),
        pids: section.whole("pids", 16..=4_000_000).unwrap_or(default.pids),
    };
    if let Err(problem) = resources.check() {
        let (key, rule) = problem.split_once(": ").expect("rules name their key");
        let key = ["cpu", "cpu_limit", "memory", "memory_limit", "pids"].into_iter().find(|it| *it == key);
        section.error(key.expect("a key of this table"), rule.into());
    }
    section.finish();
    resources
}
