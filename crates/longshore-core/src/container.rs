//! What a fleet declares about the containers that its workers run in.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Everything that only a platform with containers has a use for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub image: Image,
    /// Which image the name stood for when a release was deployed or first started, as the engine names it. Never declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    #[serde(default)]
    pub supervisor: Supervisor,
    #[serde(default)]
    pub egress: Egress,
    #[serde(default)]
    pub resources: Resources,
}

/// Where the longshore in a container comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supervisor {
    /// The image holds it, and its entrypoint starts it.
    #[default]
    Image,
    /// It is put into an unmodified image when a container starts.
    Inject,
}

/// Whom a fleet's containers may speak to.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    #[default]
    Open,
    /// longshore alone.
    Closed,
    /// longshore, and these.
    Only(Vec<Destination>),
}

/// Addresses beyond longshore, as `10.0.0.0/8:5432` or `[fd00::/8]:443`; without a port all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Destination {
    pub address: IpAddr,
    /// Leading bits that count.
    pub bits: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Destination {
    /// Errors: the rule that the text breaks, in words.
    pub fn parse(text: &str) -> Result<Destination, String> {
        let shown = crate::id::shorten(text);
        let wrong = || {
            format!("`{shown}` is no address such as \"10.0.0.0/8:5432\", \"10.1.2.3\" or \"[fd00::/8]:443\"")
        };
        let (range, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (range, port) = rest.split_once(']').ok_or_else(wrong)?;
                (range, port.strip_prefix(':'))
            }
            None if text.matches(':').count() == 1 => {
                let (range, port) = text.split_once(':').expect("it was counted");
                (range, Some(port))
            }
            None => (text, None),
        };
        let port = match port.map(str::parse::<u16>) {
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(wrong()),
            None => None,
        };
        let (address, bits) = match range.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (range, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(format!("`{shown}`: such an address has {most} bits"));
        }
        if host_bits(address, bits) != 0 {
            return Err(format!(
                "`{shown}`: the address has bits beyond the first {bits}: which range is meant?"
            ));
        }
        // Kubernetes refuses such a range from 1.36 on. All of its first 96 bits count: the last of them are ones.
        if let IpAddr::V6(mapped) = address
            && let Some(meant) = mapped.to_ipv4_mapped()
        {
            return Err(format!(
                "`{shown}` is an IPv4 range written as IPv6: write it as IPv4, {meant}/{}",
                bits.saturating_sub(96)
            ));
        }
        Ok(Destination { address, bits, port })
    }

    /// As Kubernetes and others write a range.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.address, self.bits)
    }
}

/// The bits of an address that a range leaves open.
fn host_bits(address: IpAddr, bits: u8) -> u128 {
    let (value, most) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let open = u32::from(most - bits);
    if open >= 128 { value } else { value & ((1 << open) - 1) }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.address) {
            (None, _) => f.write_str(&self.cidr()),
            (Some(port), IpAddr::V4(_)) => write!(f, "{}:{port}", self.cidr()),
            (Some(port), IpAddr::V6(_)) => write!(f, "[{}]:{port}", self.cidr()),
        }
    }
}

/// What a container is promised, and the most that it gets. CPU in thousandths of a core, memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub cpu: u32,
    pub cpu_limit: u32,
    pub memory: u64,
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Resources { cpu: 500, cpu_limit: 2000, memory: 512 << 20, memory_limit: 2 << 30, pids: 512 }
    }
}

/// An image by its name, as `docker pull` takes it: `registry.internal/research:1.4`, with or without a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub repository: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Image {
    /// Errors: the rule that the name breaks, in words.
    pub fn parse(text: &str) -> Result<Image, String> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a registry's port.
        let last = name.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match name[last..].split_once(':') {
            Some((end, tag)) => (&name[..last + end.len()], Some(tag)),
            None => (name, None),
        };
        check_repository(repository)?;
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(format!(
                "`{}` is no tag: up to 128 letters, digits and . _ -",
                crate::id::shorten(tag)
            ));
        }
        if let Some(digest) = digest.filter(|digest| !is_digest(digest)) {
            let digest = crate::id::shorten(digest);
            return Err(format!("`{digest}` is no digest such as sha256: and 64 hexadecimal digits"));
        }
        let owned = |part: Option<&str>| part.map(str::to_owned);
        Ok(Image { repository: repository.to_owned(), tag: owned(tag), digest: owned(digest) })
    }

    /// The registry that its name leads to, as people write it.
    pub fn registry(&self) -> &str {
        match self.repository.split_once('/') {
            Some((first, _)) if names_registry(first) => first,
            _ => "docker.io",
        }
    }

    /// The same image by what it holds: a tag may come to stand for another one, a digest cannot.
    pub fn by_digest(&self, digest: &str) -> Image {
        Image { digest: Some(digest.to_owned()), ..self.clone() }
    }
}

/// Whether the first part of a name is a registry's host; else the image is one of Docker's own.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        match (&self.tag, &self.digest) {
            (None, None) => {}
            (Some(tag), None) => write!(f, ":{tag}")?,
            (None, Some(digest)) => write!(f, "@{digest}")?,
            (Some(tag), Some(digest)) => write!(f, ":{tag}@{digest}")?,
        }
        Ok(())
    }
}

fn check_repository(name: &str) -> Result<(), String> {
    let shown = crate::id::shorten(name);
    if name.is_empty() || name.len() > 255 {
        return Err("an image's name has 1 to 255 letters".into());
    }
    if name.contains("://") {
        return Err(format!(
            "`{shown}` is an address: an image's name begins with its registry, without https://"
        ));
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    let first = parts[0];
    if parts.len() > 1 && names_registry(first) {
        let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if !first.chars().all(host) {
            return Err(format!("`{shown}` names no registry that can be: `{}`", crate::id::shorten(first)));
        }
        parts.remove(0);
    }
    let begins = |part: &str, c: fn(&char) -> bool| part.chars().next().is_some_and(|first| c(&first));
    let good = |part: &&str| {
        begins(part, |c| c.is_ascii_lowercase() || c.is_ascii_digit())
            && !part.ends_with(['.', '_', '-'])
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
    };
    match parts.iter().all(good) {
        true => Ok(()),
        false => Err(format!(
            "`{shown}` is no image's name: a-z, 0-9, . _ - and / between its parts, in lower case"
        )),
    }
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(kind, hex)| {
        kind == "sha256" && hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    })
}

impl Resources {
    /// Errors: the rule that they break, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let rules = [
            (self.cpu >= 1, "cpu: at least 0.001"),
            (
                self.cpu_limit >= 10,
                "cpu_limit: at least 0.01, the least that the kernel can hold a container to",
            ),
            (self.cpu <= self.cpu_limit, "cpu: more than `cpu_limit`"),
            (self.memory_limit >= SMALLEST_MEMORY, "memory_limit: at least \"16Mi\""),
            (self.memory <= self.memory_limit, "memory: more than `memory_limit`"),
            (self.pids >= 16, "pids: at least 16"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
    }
}

/// What a supervisor needs to run at all, with a little for its agent.
const SMALLEST_MEMORY: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, parts: (&str, Option<&str>, Option<&str>)) {
        let image = Image::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert_eq!((image.repository.as_str(), image.tag.as_deref(), image.digest.as_deref()), parts);
        assert_eq!(image.to_string(), text);
    }

    #[test]
    fn names_are_taken_apart_and_put_together_again() {
        let digest = format!("sha256:{}", "a".repeat(64));
        check("research", ("research", None, None));
        check("acme/research:1.4-g0a1b2c", ("acme/research", Some("1.4-g0a1b2c"), None));
        check("localhost:5000/research", ("localhost:5000/research", None, None));
        check("registry.internal:5000/a/b:x", ("registry.internal:5000/a/b", Some("x"), None));
        check(&format!("research@{digest}"), ("research", None, Some(&digest)));
        check(&format!("research:1@{digest}"), ("research", Some("1"), Some(&digest)));
        // An id, as `docker images --no-trunc` shows it.
        check(&digest, ("sha256", Some(&"a".repeat(64)), None));
    }

    #[test]
    fn the_registry_is_what_stands_before_the_first_slash_if_that_is_a_host() {
        let named =
            ["registry.internal/a:1", "127.0.0.1:5000/a/b", "localhost/a", "acme/a:1", "debian", "a:1"];
        let hosts = named.map(|name| Image::parse(name).expect("a name").registry().to_owned());
        assert_eq!(
            hosts,
            ["registry.internal", "127.0.0.1:5000", "localhost", "docker.io", "docker.io", "docker.io"]
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in
            ["", "Research", "a//b", "a/", "https://x/y", "a:", "a:b:c", "a@sha256:1", "a b", "-a", "a:-b"]
        {
            assert!(Image::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn destinations_are_ranges_with_or_without_a_port() {
        for (text, cidr, port) in [
            ("10.0.0.0/8:5432", "10.0.0.0/8", Some(5432)),
            ("10.1.2.3/32", "10.1.2.3/32", None),
            ("[fd00::/8]:443", "fd00::/8", Some(443)),
            ("fd00::/8", "fd00::/8", None),
            ("0.0.0.0/0", "0.0.0.0/0", None),
            ("::/0", "::/0", None),
        ] {
            let read = Destination::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!((read.cidr().as_str(), read.port, read.to_string().as_str()), (cidr, port, text));
        }
        assert_eq!(Destination::parse("10.1.2.3").map(|it| it.cidr()), Ok("10.1.2.3/32".into()));
        for text in
            ["", "db:5432", "10.0.0.0/33", "10.1.0.0/8", "10.0.0.0/8:0", "10.0.0.0/8:x", "[fd00::/8", "::1/0"]
        {
            assert!(Destination::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_ipv4_range_written_as_ipv6_is_refused_and_named() {
        for (text, meant) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:a00:0/104", "10.0.0.0/8"),
            ("[::FFFF:10.1.2.3]:443", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let problem = Destination::parse(text).expect_err(text);
            assert!(problem.ends_with(&format!("write it as IPv4, {meant}")), "{text}: {problem}");
        }
        for other in ["::/0", "::fffe:0:0/96", "64:ff9b::/96", "ffff::/16"] {
            assert_eq!(Destination::parse(other).map(|it| it.cidr()), Ok(other.to_owned()));
        }
        assert!(Destination::parse("::ffff:10.0.0.0/88").is_err(), "no range begins there");
    }

    #[test]
    fn what_is_promised_is_never_more_than_the_limit() {
        let default = Resources::default();
        assert_eq!(default.check(), Ok(()));
        assert!(Resources { cpu: 3000, ..default }.check().is_err());
        assert!(Resources { memory: 3 << 30, ..default }.check().is_err());
        assert!(Resources { memory_limit: 1 << 20, memory: 1 << 20, ..default }.check().is_err());
    }
}
