//! Reads `[docker]`.

use super::section::Section;
use super::{DockerSettings, resolve};

pub(super) fn read_docker(root: &mut Section<'_>, base_dir: &str) -> DockerSettings {
    let Some(mut section) = root.section("docker") else { return DockerSettings::default() };
    let path = section.text("inject", "the path of a longshore binary").map(|path| resolve(base_dir, &path));
    let project = section.text("project", "the name of a compose project");
    let file = section.text("override", "the path of a file that longshore writes");
    let settings = DockerSettings {
        host: read_host(&mut section),
        inject: path,
        cpu: section.cpu("cpu"),
        memory: section.size("memory"),
        project,
        override_file: file.map(|path| resolve(base_dir, &path)),
    };
    section.finish();
    settings
}

fn read_host(section: &mut Section<'_>) -> Option<String> {
    let expected = "the engine's address such as \"unix:///var/run/docker.sock\" or \"tcp://127.0.0.1:2375\"";
    let host = section.text("host", expected)?;
    let known = |scheme: &str| host.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty());
    if known("unix:///") || known("tcp://") {
        return Some(host);
    }
    let shown = crate::id::shorten(&host);
    section.error("host", format!("expected {expected}, found `{shown}`"));
    None
}
