//! Reads `[kubernetes]`.

use std::net::{Ipv4Addr, SocketAddr};

use super::section::Section;
use super::server::read_address;
use super::{KubernetesSettings, resolve};
use crate::container::Image;
use crate::kubernetes::METRICS_PORT;

const NAME: &str = "a name of Kubernetes: a-z, 0-9 and -, up to 63 letters";

pub(super) fn read_kubernetes(root: &mut Section<'_>, base_dir: &str) -> KubernetesSettings {
    let default = KubernetesSettings::default();
    let Some(mut section) = root.section("kubernetes") else { return default };
    let settings = KubernetesSettings {
        namespace: read_name(&mut section, "namespace"),
        image: read_image(&mut section),
        image_pull_secrets: read_names(&mut section, "image_pull_secrets"),
        insecure_registries: read_registries(&mut section),
        secret: read_name(&mut section, "secret").unwrap_or(default.secret),
        store_secret: read_name(&mut section, "store_secret"),
        replicas: section.whole("replicas", 1..=100).unwrap_or(default.replicas),
        overlay: section
            .text("overlay", "the path of a YAML file such as \"control-plane.yaml\"")
            .map(|path| resolve(base_dir, &path)),
        metrics: read_address(&mut section, "metrics").unwrap_or(default.metrics),
    };
    if settings.replicas < 2 {
        section.warn(
            "replicas",
            "below 2: while the only control plane is replaced or lost, no task is handed out",
        );
    }
    section.finish();
    settings
}

fn read_image(section: &mut Section<'_>) -> Option<Image> {
    let text = section.text("image", "the longshore image, such as \"registry.internal/longshore:0.1.0\"")?;
    let image = Image::parse(&text);
    image.map_err(|problem| section.error("image", problem)).ok()
}

fn read_name(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let name = section.text(key, NAME)?;
    if is_name(&name) {
        return Some(name);
    }
    section.error(key, format!("`{}` is not {NAME}", crate::id::shorten(&name)));
    None
}

fn read_names(section: &mut Section<'_>, key: &'static str) -> Vec<String> {
    let names = section.texts(key, "an array of names such as [\"registry\"]").unwrap_or_default();
    for (name, place) in names.iter().filter(|(name, _)| !is_name(name)) {
        section.error_in(place.clone(), key, format!("`{}` is not {NAME}", crate::id::shorten(name)));
    }
    names.into_iter().map(|(name, _)| name).collect()
}

fn read_registries(section: &mut Section<'_>) -> Vec<String> {
    const KEY: &str = "insecure_registries";
    let expected = "an array of registries such as [\"registry.internal:5000\"]";
    let hosts = section.texts(KEY, expected).unwrap_or_default();
    let names_host =
        |host: &str| Image::parse(&format!("{host}/image")).is_ok_and(|image| image.registry() == host);
    for (host, place) in hosts.iter().filter(|(host, _)| !names_host(host)) {
        let shown = crate::id::shorten(host);
        section.error_in(
            place.clone(),
            KEY,
            format!("`{shown}` is no registry such as \"registry.internal:5000\""),
        );
    }
    hosts.into_iter().map(|(host, _)| host).collect()
}

/// A DNS label, which every name of an object may be.
fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(good) && !name.starts_with('-') && !name.ends_with('-')
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        KubernetesSettings {
            namespace: None,
            image: None,
            image_pull_secrets: Vec::new(),
            insecure_registries: Vec::new(),
            secret: "longshore".into(),
            store_secret: None,
            replicas: 2,
            overlay: None,
            metrics: SocketAddr::from((Ipv4Addr::UNSPECIFIED, METRICS_PORT)),
        }
    }
}
