//! What a process has to know of the pod that it runs in.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{CONTROL_PLANE, LINK};
use crate::settings::{Settings, Tls};

/// Names the pod's own address.
pub const POD_IP: &str = "LONGSHORE_POD_IP";

/// Where to listen: on all of IPv4 nobody would be heard in a pod whose address is of IPv6, and on `[::]` both are. Where a
/// kernel has no IPv6 no pod has such an address.
pub fn listen_on(given: SocketAddr, pod: IpAddr) -> SocketAddr {
    match given.is_ipv4() && given.ip().is_unspecified() && pod.is_ipv6() {
        true => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), given.port()),
        false => given,
    }
}

/// Makes the settings those of a control plane in the pod: workers reach it at the pod's address unless it is said to be elsewhere.
pub fn in_pod(settings: &mut Settings, pod: IpAddr) {
    let (server, metrics) = (&mut settings.server, &mut settings.kubernetes.metrics);
    for address in [&mut server.api, &mut server.link, &mut server.probes, metrics] {
        *address = listen_on(*address, pod);
    }
    let scheme = if server.tls == Tls::Off { "http" } else { "https" };
    let own = SocketAddr::new(pod, server.link.port());
    server.link_url.get_or_insert_with(|| format!("{scheme}://{own}"));
}

/// By which clients in the cluster call the control plane.
pub fn service_names(namespace: &str) -> Vec<String> {
    let ends = ["", ".svc", ".svc.cluster.local"].map(|end| format!(".{namespace}{end}"));
    let named = |service: &'static str| {
        std::iter::once(service.to_owned()).chain(ends.each_ref().map(|end| format!("{service}{end}")))
    };
    [CONTROL_PLANE, LINK].into_iter().flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    fn settled(text: &str, pod: &str) -> Settings {
        let own = [("API", "7117"), ("LINK", "7118"), ("PROBES", "7119")];
        let told = own.map(|(key, port)| (format!("LONGSHORE__SERVER__{key}"), format!("0.0.0.0:{port}")));
        let (mut settings, _) = settings::parse(text, "x", &told, "/").expect("it reads");
        in_pod(&mut settings, pod.parse().expect("an address"));
        settings
    }

    #[test]
    fn a_pod_listens_where_its_own_address_is() {
        let of = |pod: &str| {
            let Settings { server, kubernetes, .. } = settled("", pod);
            let all = [server.api, server.link, server.probes, kubernetes.metrics];
            (all.map(|address| address.to_string()).join(" "), server.link_url.unwrap_or_default())
        };
        let every = |ip: &str| format!("{ip}:7117 {ip}:7118 {ip}:7119 {ip}:7120");
        assert_eq!(of("10.1.2.3"), (every("0.0.0.0"), "http://10.1.2.3:7118".into()));
        assert_eq!(of("fd00::5"), (every("[::]"), "http://[fd00::5]:7118".into()));
    }

    #[test]
    fn what_is_said_stays() {
        let settings = settled("[server]\ntls = \"auto\"\nlink_url = \"https://a:1\"\n", "fd00::5");
        assert_eq!(settings.server.link_url.as_deref(), Some("https://a:1"));
        let settings = settled("[server]\ntls = \"auto\"\n", "fd00::5");
        assert_eq!(settings.server.link_url.as_deref(), Some("https://[fd00::5]:7118"));
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let pod = "fd00::5".parse().expect("an address");
        for own in ["127.0.0.1:7117", "[::1]:7117", "10.0.0.1:1"] {
            assert_eq!(listen_on(at(own), pod), at(own));
        }
    }

    #[test]
    fn services_are_called_by_short_names_and_long_ones() {
        let names = service_names("agents");
        for name in [
            "longshore",
            "longshore.agents.svc",
            "longshore-link.agents",
            "longshore-link.agents.svc.cluster.local",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        assert_eq!(names.len(), 8);
    }
}
