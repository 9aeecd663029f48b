//! Reads `[server]`.

use std::net::{Ipv4Addr, SocketAddr};

use super::provider::split_host;
use super::section::Section;
use super::tree::Value;
use super::{FleetsFrom, ServerSettings, Tls, resolve};
use crate::units::show_size;

const SMALLEST_INPUT: u64 = 1 << 10;
const LARGEST_INPUT: u64 = 32 << 20;

pub(super) fn read_server(root: &mut Section<'_>, base_dir: &str) -> ServerSettings {
    let mut settings = ServerSettings::default();
    let Some(mut section) = root.section("server") else { return settings };
    read_listeners(&mut section, &mut settings);
    settings.link_url = read_link_url(&mut section);
    let sources = [("file", FleetsFrom::File), ("api", FleetsFrom::Api)];
    settings.fleets = section.choice("fleets", &sources, &[]).unwrap_or_default();
    settings.token = section.secret("token", base_dir);
    settings.allow_insecure = section.boolean("allow_insecure").unwrap_or(false);
    settings.tls = read_tls(&mut section, base_dir);
    if let Some(limit) = section.size("input_limit") {
        if !(SMALLEST_INPUT..=LARGEST_INPUT).contains(&limit) {
            let (low, high) = (show_size(SMALLEST_INPUT), show_size(LARGEST_INPUT));
            section.error("input_limit", format!("expected a size from \"{low}\" to \"{high}\""));
        }
        settings.input_limit = limit;
    }
    settings.conversations_ms = section.kept("keep_conversations").unwrap_or(settings.conversations_ms);
    section.later(&["public_url", "trusted_proxies"]);
    section.finish();
    settings
}

fn read_listeners(section: &mut Section<'_>, settings: &mut ServerSettings) {
    let ServerSettings { api, link, probes, .. } = settings;
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (key, address) in [("api", api), ("link", link), ("probes", probes)] {
        match read_address(section, key) {
            Some(given) => *address = given,
            // Not understood: its default must not seem to be in the way of the others.
            None if section.was_given(key) => continue,
            None => {}
        }
        if let Some((other, _)) = taken.iter().find(|(_, other)| other == address && address.port() != 0) {
            section.error(key, format!("{address} is the address of `{other}` already"));
        }
        taken.push((key, *address));
    }
}

pub(super) fn read_address(section: &mut Section<'_>, key: &'static str) -> Option<SocketAddr> {
    let expected = "an address and port such as \"127.0.0.1:7117\"";
    let text = section.text(key, expected)?;
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.clone(),
    };
    let address = numeric.parse().ok();
    if address.is_none() {
        let shown: String = text.chars().take(60).collect();
        section.error(key, format!("expected {expected}, found {shown:?}"));
    }
    address
}

fn read_link_url(section: &mut Section<'_>) -> Option<String> {
    let expected = "an address such as \"http://longshore-1:7118\"";
    let url = section.text("link_url", expected)?;
    let url = url.trim_end_matches('/');
    match split_host(url, expected) {
        Ok(_) if url.matches('/').count() == 2 && !url.contains(['?', '#']) => return Some(url.to_owned()),
        Ok(_) => section.error("link_url", format!("has a path: expected {expected}")),
        Err(problem) => section.error("link_url", problem),
    }
    None
}

/// `"auto"`, `"off"` or a table with the files.
fn read_tls(section: &mut Section<'_>, base_dir: &str) -> Tls {
    let Some(node) = section.take("tls") else { return Tls::Off };
    let expected = "\"auto\", \"off\" or { cert = \"PATH\", key = \"PATH\" }";
    match &node.value {
        Value::Text(word) if word == "auto" => return Tls::Auto,
        Value::Text(word) if word == "off" => return Tls::Off,
        Value::Table(_) => {}
        _ => {
            section.wrong::<()>(&node, "tls", expected);
            return Tls::Off;
        }
    }
    let place = node.place.clone();
    let Some(mut files) = section.open("tls", node, expected) else { return Tls::Off };
    let path = |text: Option<String>| {
        let text = text.filter(|text| !text.is_empty() && !text.contains('\0'));
        text.map(|text| resolve(base_dir, &text))
    };
    let (cert, key) = (path(files.text("cert", "a path")), path(files.text("key", "a path")));
    let given = files.was_given("cert") && files.was_given("key");
    files.finish();
    match (cert, key) {
        (Some(cert), Some(key)) => Tls::Files { cert, key },
        _ => {
            let problem = if given { "expected paths" } else { "expected both of `cert` and `key`" };
            section.error_in(place, "tls", problem.into());
            Tls::Off
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        ServerSettings {
            api: local(7117),
            link: local(7118),
            link_url: None,
            probes: local(7119),
            fleets: FleetsFrom::File,
            token: None,
            allow_insecure: false,
            tls: Tls::Off,
            input_limit: 1 << 20,
            conversations_ms: None,
        }
    }
}
