//! Control planes that run in containers of the engine: in every fleet's network, so that workers reach each of them.
//!
//! Only who has the engine's socket can see to that, so the leader does it for all.

use longshore_core::errors::chain;
use longshore_core::role::{Role, Roles};
use longshore_platform::docker::{DockerPlatform, PlaneContainer};

use crate::app::App;

/// A replica of the control plane in a container of this engine.
pub struct Plane {
    pub container: PlaneContainer,
    /// Its worker link, as whoever shares a network with it reaches it; none: it does not serve that.
    pub link: Option<String>,
    /// The name in its own `link_url`.
    alias: Option<String>,
}

/// Where the link of a replica is that was seen last, and whether it is a container here.
pub enum Found {
    Here(Plane),
    /// Its address, if it serves the link.
    Elsewhere(Option<String>),
}

/// All replicas that live, as far as they serve workers.
pub async fn others(app: &App, platform: &DockerPlatform) -> Result<Vec<Found>, String> {
    let seen: Vec<_> = app.replicas.lock().expect("no holder panics").clone();
    let mut found = Vec::new();
    for replica in seen {
        let roles = Roles::named(&replica.roles);
        let serves = roles.has(Role::Link);
        let Some(link) = replica.link.filter(|_| serves || roles.has(Role::Gateway)) else { continue };
        // Named by its host and port; the embedded store's only one is not.
        let host = replica.name.rsplit_once(':').map(|(host, _)| host);
        let container = match host {
            Some(host) => platform.plane_container(host).await.map_err(|error| chain(&error))?,
            None => None,
        };
        found.push(match container {
            Some(container) => Found::Here(plane(container, &link, serves)),
            None => Found::Elsewhere(serves.then_some(link)),
        });
    }
    Ok(found)
}

/// A name that a replica gives for itself is one in these networks too; an address in another network leads nowhere here.
fn plane(container: PlaneContainer, link: &str, serves: bool) -> Plane {
    let (scheme, rest) = link.split_once("://").unwrap_or(("http", link));
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').unwrap_or((rest, "7118"));
    let is_address = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    let link = match is_address {
        true => format!("{scheme}://{}:{port}", container.name),
        false => link.to_owned(),
    };
    let alias = (!is_address).then(|| host.to_owned());
    Plane { container, link: serves.then_some(link), alias }
}

impl Plane {
    pub async fn join(&self, platform: &DockerPlatform, network: &str) -> Result<(), String> {
        let joined = platform.join(network, &self.container, self.alias.as_deref()).await;
        joined.map_err(|error| chain(&error))
    }
}

/// The container that this process runs in, if it is one of this engine's.
pub async fn own(platform: &DockerPlatform) -> Result<Option<PlaneContainer>, String> {
    if !std::path::Path::new("/.dockerenv").exists() {
        return Ok(None);
    }
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    platform.plane_container(&name).await.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(link: &str, expected: (&str, Option<&str>)) {
        let container = PlaneContainer { name: "shop_control_2".into(), networks: Vec::new() };
        let plane = plane(container, link, true);
        assert_eq!((plane.link.as_deref(), plane.alias.as_deref()), (Some(expected.0), expected.1), "{link}");
    }

    #[test]
    fn a_replica_is_called_as_it_calls_itself_if_that_is_a_name() {
        check("http://172.17.0.5:7118", ("http://shop_control_2:7118", None));
        check("https://[fd00::5]:7118", ("https://shop_control_2:7118", None));
        check("http://control-2:7118", ("http://control-2:7118", Some("control-2")));
        check("http://control-2:7118/", ("http://control-2:7118/", Some("control-2")));
    }
}
