//! What a control plane serves. With the shared store each part may run in processes of its own.

use std::fmt;
use std::str::FromStr;

/// One part of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The public API, on a listener of its own.
    Api,
    /// What workers ask and tell, and the agents' own API, on the worker link's listener.
    Link,
    /// The agents' LLM calls, on the worker link's listener. Only here are the keys of providers.
    Gateway,
    /// What keeps fleets as declared, leases in time and the store tidy; one replica of these leads.
    Controllers,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Api, Role::Link, Role::Gateway, Role::Controllers];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Api => "api",
            Role::Link => "link",
            Role::Gateway => "gateway",
            Role::Controllers => "controllers",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no role has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: expected `api`, `link`, `gateway` or `controllers`")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Role, UnknownRole> {
        let found = Role::ALL.into_iter().find(|role| role.as_str() == name);
        found.ok_or_else(|| UnknownRole(name.to_owned()))
    }
}

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// A whole control plane.
    pub const ALL: Roles = Roles(0b1111);

    /// The roles of these names. A name that is not known here is of a newer version, and nothing to this one.
    pub fn named(names: &[String]) -> Roles {
        names.iter().filter_map(|name| name.parse::<Role>().ok()).collect()
    }

    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether workers have a reason to connect to a process with these roles.
    pub fn take_workers(self) -> bool {
        self.has(Role::Link) || self.has(Role::Gateway)
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }

    pub fn names(self) -> Vec<String> {
        self.iter().map(|role| role.to_string()).collect()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<T: IntoIterator<Item = Role>>(roles: T) -> Roles {
        Roles(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

/// As they are given: `api,link`.
impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A replica of the control plane that workers may connect to: what it has, and where.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub roles: Roles,
    pub address: &'a str,
}

/// Where workers find the worker link, in the order of these places.
pub fn links(places: &[Place<'_>]) -> Vec<String> {
    with(places, Role::Link).map(str::to_owned).collect()
}

/// Where LLM calls go; `None`: wherever else a worker goes, since those are all gateways, and there are no others.
///
/// Empty: nowhere now, or not known yet; whoever knew some keeps to them.
pub fn gateways(me: Roles, places: &[Place<'_>]) -> Option<Vec<String>> {
    let together = |place: &Place<'_>| place.roles.has(Role::Link) == place.roles.has(Role::Gateway);
    // Of a replica that has not seen even itself, only what it is itself can be told.
    if places.iter().all(together) && (me.has(Role::Gateway) || !places.is_empty()) {
        return None;
    }
    Some(with(places, Role::Gateway).map(str::to_owned).collect())
}

fn with<'a>(places: &'a [Place<'a>], role: Role) -> impl Iterator<Item = &'a str> {
    places.iter().filter(move |place| place.roles.has(role)).map(|place| place.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(names: &str) -> Roles {
        Roles::named(&names.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_set_is_its_names_in_one_order() {
        for (given, expected) in [
            ("api,link,gateway,controllers", "api,link,gateway,controllers"),
            ("controllers,api,api", "api,controllers"),
            ("gateway,of-next-year", "gateway"),
            ("", ""),
        ] {
            assert_eq!(roles(given).to_string(), expected);
            assert_eq!(roles(given).is_empty(), expected.is_empty());
        }
        assert_eq!(Role::ALL.into_iter().collect::<Roles>(), Roles::ALL);
        assert_eq!("Api".parse::<Role>(), Err(UnknownRole("Api".into())));
        assert!(roles("link").take_workers() && roles("api,gateway").take_workers());
        assert!(!roles("api,controllers").take_workers());
    }

    /// `others`: the roles of each replica that lives, which is at the address of its number.
    fn check(me: &str, others: &[&str], to_links: &str, to_gateways: Option<&str>) {
        let addresses: Vec<String> = (0..others.len()).map(|n| n.to_string()).collect();
        let places = others.iter().zip(&addresses);
        let places: Vec<_> = places.map(|(names, address)| Place { roles: roles(names), address }).collect();
        assert_eq!(links(&places).concat(), to_links, "{others:?}");
        assert_eq!(
            gateways(roles(me), &places).map(|all| all.concat()).as_deref(),
            to_gateways,
            "{others:?}"
        );
    }

    #[test]
    fn calls_go_where_all_goes_unless_links_and_gateways_differ() {
        let all = "api,link,gateway,controllers";
        check(all, &[all], "0", None);
        check(all, &[all, "link,gateway", "api"], "01", None);
        check("link", &["link", "gateway"], "0", Some("1"));
        check("link", &["link", "api", "gateway", "gateway"], "0", Some("23"));
        check("link", &["link", all], "01", Some("1"));
        check(all, &[all, "gateway"], "0", Some("01"));
        check("link", &["link"], "0", Some(""));
    }

    #[test]
    fn who_has_not_looked_yet_sends_calls_nowhere_but_to_itself() {
        check("link", &[], "", Some(""));
        check("link,gateway", &[], "", None);
    }
}
