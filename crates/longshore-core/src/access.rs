//! Who may do what: an API key's scope against what a request is about.
//!
//! Knows nothing of HTTP and of how keys are stored. Every answer is a value; a refusal says which part of the scope it is.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{FleetName, TenantName};
use crate::time::Timestamp;

/// What every API key begins with, so that scanners for leaked secrets know it.
pub const KEY_PREFIX: &str = "lsk_";

/// Letters and digits after the prefix: 256 bits of chance.
pub const KEY_LENGTH: usize = 43;

/// The longest name of a key, in characters.
pub const LONGEST_NAME: usize = 100;

/// What a key may do. Each stands for itself; only [`Verb::Admin`] includes others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// See tasks, conversations, fleets and workers.
    Read,
    /// Submit, cancel, retry and answer tasks.
    Submit,
    /// Scale fleets and drain workers.
    Operate,
    /// Everything that the API has: declare fleets, make and revoke keys, and all of the above.
    Admin,
    /// Be a worker of one fleet. It opens the worker link and nothing of the API.
    Join,
}

impl Verb {
    pub const ALL: [Verb; 5] = [Verb::Read, Verb::Submit, Verb::Operate, Verb::Admin, Verb::Join];

    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Read => "read",
            Verb::Submit => "submit",
            Verb::Operate => "operate",
            Verb::Admin => "admin",
            Verb::Join => "join",
        }
    }

    pub fn parse(text: &str) -> Option<Verb> {
        Verb::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a key is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub verbs: BTreeSet<Verb>,
    /// Empty: all fleets, later ones too.
    pub fleets: BTreeSet<FleetName>,
    /// `None`: all tenants.
    pub tenant: Option<TenantName>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// Nothing of anybody's: version, health, the API's description.
    Nothing,
    /// A list of tasks, which is narrowed to what the caller may see, or a task that is not found yet.
    SomeTasks,
    /// A list of fleets or workers, likewise.
    SomeFleets,
    /// A task, or a conversation's part in one fleet.
    Task { fleet: &'a FleetName, tenant: &'a TenantName },
    /// A fleet's declaration, numbers and workers: of all tenants together.
    Fleet(&'a FleetName),
    /// Keys, and declarations of all fleets.
    Installation,
}

/// Why a request is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The key lacks this verb.
    Verb(Verb),
    /// The key is for other fleets.
    Fleet,
    /// The key is for another tenant, or for one where the request concerns all.
    Tenant,
}

impl Scope {
    /// What an administrator's token is good for, and whoever needs none.
    pub fn everything() -> Scope {
        Scope { verbs: [Verb::Admin].into(), fleets: BTreeSet::new(), tenant: None }
    }

    /// Whether this scope makes sense.
    ///
    /// Errors: the rule that it breaks.
    pub fn check(&self) -> Result<(), &'static str> {
        let has = |verb| self.verbs.contains(&verb);
        let narrow = !self.fleets.is_empty() || self.tenant.is_some();
        match () {
            () if self.verbs.is_empty() => Err("a key needs at least one verb"),
            () if has(Verb::Join) && self.verbs.len() > 1 => {
                Err("a key that joins workers can do nothing else: make another one")
            }
            () if has(Verb::Join) && self.fleets.len() != 1 => {
                Err("a key that joins workers is for one fleet")
            }
            () if has(Verb::Join) && self.tenant.is_some() => Err("workers serve all tenants of their fleet"),
            () if has(Verb::Admin) && narrow => {
                Err("`admin` concerns all fleets and tenants: it cannot be narrowed to some")
            }
            () if has(Verb::Operate) && self.tenant.is_some() => {
                Err("`operate` concerns all tenants of a fleet: it cannot be narrowed to one")
            }
            () => Ok(()),
        }
    }

    /// Whether a request that needs `verb` and is about `subject` is allowed.
    pub fn allow(&self, verb: Verb, subject: Subject<'_>) -> Result<(), Denied> {
        let has_verb =
            self.verbs.contains(&verb) || (verb != Verb::Join && self.verbs.contains(&Verb::Admin));
        if !has_verb {
            return Err(Denied::Verb(verb));
        }
        match subject {
            Subject::Nothing | Subject::SomeTasks => Ok(()),
            Subject::SomeFleets => self.all_tenants(),
            Subject::Fleet(fleet) => self.fleet(fleet).and_then(|()| self.all_tenants()),
            Subject::Task { fleet, tenant } => self.fleet(fleet).and_then(|()| self.tenant(tenant)),
            Subject::Installation if !self.fleets.is_empty() => Err(Denied::Fleet),
            Subject::Installation => self.all_tenants(),
        }
    }

    fn fleet(&self, fleet: &FleetName) -> Result<(), Denied> {
        let within = self.fleets.is_empty() || self.fleets.contains(fleet);
        if within { Ok(()) } else { Err(Denied::Fleet) }
    }

    fn tenant(&self, tenant: &TenantName) -> Result<(), Denied> {
        let within = self.tenant.as_ref().is_none_or(|own| own == tenant);
        if within { Ok(()) } else { Err(Denied::Tenant) }
    }

    fn all_tenants(&self) -> Result<(), Denied> {
        if self.tenant.is_none() { Ok(()) } else { Err(Denied::Tenant) }
    }
}

/// Whether a key is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    Expired,
    Revoked,
}

/// A revoked key stays revoked, whatever else it is; one expires at the very moment that it names.
pub fn standing(expires_at: Option<Timestamp>, revoked_at: Option<Timestamp>, now: Timestamp) -> Standing {
    match (revoked_at, expires_at) {
        (Some(_), _) => Standing::Revoked,
        (None, Some(at)) if at <= now => Standing::Expired,
        _ => Standing::Good,
    }
}

/// Whether a text has the shape of an API key; whether it is one only the store knows.
pub fn is_key(text: &str) -> bool {
    let rest = text.strip_prefix(KEY_PREFIX);
    rest.is_some_and(|rest| rest.len() == KEY_LENGTH && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Whether a text can name a key: for people, so any script, on one line.
pub fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=LONGEST_NAME).contains(&length) && text.trim() == text && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(verbs: &[Verb], fleets: &[&str], tenant: Option<&str>) -> Scope {
        Scope {
            verbs: verbs.iter().copied().collect(),
            fleets: fleets.iter().map(|name| FleetName::new(*name).expect("valid")).collect(),
            tenant: tenant.map(|name| TenantName::new(name).expect("valid")),
        }
    }

    fn check(scope: &Scope, verb: Verb, expected: [Result<(), Denied>; 4]) {
        let (a, b) = (FleetName::new("a").expect("valid"), FleetName::new("b").expect("valid"));
        let (acme, other) = (TenantName::new("acme").expect("valid"), TenantName::default());
        let subjects = [
            Subject::Task { fleet: &a, tenant: &acme },
            Subject::Task { fleet: &a, tenant: &other },
            Subject::Task { fleet: &b, tenant: &acme },
            Subject::Fleet(&a),
        ];
        assert_eq!(subjects.map(|subject| scope.allow(verb, subject)), expected, "{scope:?} {verb}");
    }

    #[test]
    fn a_verb_stands_for_itself_and_only_admin_includes_others() {
        let all = [Ok(()); 4];
        for has in Verb::ALL {
            for wanted in Verb::ALL {
                let included = has == wanted || (has == Verb::Admin && wanted != Verb::Join);
                let expected = if included { all } else { [Err(Denied::Verb(wanted)); 4] };
                check(&scope(&[has], &[], None), wanted, expected);
            }
        }
    }

    #[test]
    fn fleets_and_a_tenant_narrow_a_key() {
        let (fleet, tenant) = (Err(Denied::Fleet), Err(Denied::Tenant));
        check(&scope(&[Verb::Read], &["a"], None), Verb::Read, [Ok(()), Ok(()), fleet, Ok(())]);
        check(&scope(&[Verb::Read], &[], Some("acme")), Verb::Read, [Ok(()), tenant, Ok(()), tenant]);
        check(&scope(&[Verb::Submit], &["a"], Some("acme")), Verb::Submit, [Ok(()), tenant, fleet, tenant]);
    }

    #[test]
    fn a_tenants_key_sees_no_fleets_and_a_narrow_one_nothing_of_the_whole() {
        let tenant = scope(&[Verb::Read], &[], Some("acme"));
        assert_eq!(tenant.allow(Verb::Read, Subject::SomeFleets), Err(Denied::Tenant));
        assert_eq!(tenant.allow(Verb::Read, Subject::SomeTasks), Ok(()));
        assert_eq!(tenant.allow(Verb::Read, Subject::Nothing), Ok(()));
        // Such scopes are not made; one that came from elsewhere gains nothing by it.
        let narrow = scope(&[Verb::Admin], &["a"], None);
        assert_eq!(narrow.allow(Verb::Admin, Subject::Installation), Err(Denied::Fleet));
        assert_eq!(Scope::everything().allow(Verb::Admin, Subject::Installation), Ok(()));
    }

    #[test]
    fn scopes_that_contradict_themselves_are_refused() {
        let refused = [
            scope(&[], &[], None),
            scope(&[Verb::Admin], &["a"], None),
            scope(&[Verb::Admin], &[], Some("acme")),
            scope(&[Verb::Operate], &[], Some("acme")),
            scope(&[Verb::Join], &[], None),
            scope(&[Verb::Join], &["a", "b"], None),
            scope(&[Verb::Join, Verb::Read], &["a"], None),
            scope(&[Verb::Join], &["a"], Some("acme")),
        ];
        for scope in refused {
            assert!(scope.check().is_err(), "{scope:?}");
        }
        for scope in [
            Scope::everything(),
            scope(&[Verb::Join], &["a"], None),
            scope(&[Verb::Read, Verb::Submit], &["a", "b"], Some("acme")),
        ] {
            assert_eq!(scope.check(), Ok(()), "{scope:?}");
        }
    }

    #[test]
    fn a_key_ends_at_the_moment_it_names_and_a_revoked_one_is_revoked() {
        let at = |ms| Some(Timestamp(ms));
        let now = Timestamp(10);
        assert_eq!(standing(None, None, now), Standing::Good);
        assert_eq!(standing(at(11), None, now), Standing::Good);
        assert_eq!(standing(at(10), None, now), Standing::Expired);
        assert_eq!(standing(at(9), at(9), now), Standing::Revoked);
        assert_eq!(standing(None, at(99), now), Standing::Revoked);
    }

    #[test]
    fn keys_and_names_have_a_shape() {
        let key = format!("lsk_{}", "aB3".repeat(15).split_at(KEY_LENGTH).0);
        assert!(is_key(&key));
        for wrong in
            ["", "lsk_", &key[1..], &key[..key.len() - 1], &format!("{key}a"), &key.replace('a', "-")]
        {
            assert!(!is_key(wrong), "{wrong}");
        }
        assert!(is_name("CI of the webshop ✓") && is_name(&"x".repeat(100)));
        for wrong in ["", " a", "a\nb", &"x".repeat(101)] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
