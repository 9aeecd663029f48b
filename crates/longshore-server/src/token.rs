//! The tokens that the control plane gives out and knows again: nothing about them is stored.
//!
//! A worker's token belongs to a fleet, a task's to one attempt. Both are signed with the installation's secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use longshore_core::id::{FleetName, Held, WorkerId};
use sha2::Sha256;

/// Signs tokens. Prints as `[redacted]`.
#[derive(Clone)]
pub struct Signer(Vec<u8>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Signer {
    /// Units: at least 32 bytes of chance.
    pub fn new(secret: Vec<u8>) -> Signer {
        Signer(secret)
    }

    /// Six letters that tell this installation from others on the same machine; not secret.
    pub fn installation(&self) -> String {
        let digest = self.sign("installation").finalize().into_bytes();
        digest.iter().take(6).map(|byte| char::from(b'a' + byte % 26)).collect()
    }

    /// `lsw1.<fleet>.<signature>`
    pub fn worker_token(&self, fleet: &FleetName) -> String {
        format!(
            "lsw1.{fleet}.{}",
            URL_SAFE_NO_PAD.encode(self.sign(&worker_text(fleet)).finalize().into_bytes())
        )
    }

    /// `lsw2.<fleet>.<worker>.<signature>`: of one worker alone, so what leaks from it is of no use to another.
    pub fn token_of_worker(&self, fleet: &FleetName, worker: &WorkerId) -> String {
        let signature = self.sign(&one_worker_text(fleet, worker)).finalize().into_bytes();
        format!("lsw2.{fleet}.{worker}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns whose token this is; `None` if it was not signed here.
    pub fn worker_of(&self, token: &str) -> Option<(FleetName, WorkerId)> {
        let (fleet, rest) = token.strip_prefix("lsw2.")?.split_once('.')?;
        let (worker, signature) = rest.rsplit_once('.')?;
        let (fleet, worker) = (FleetName::new(fleet).ok()?, WorkerId::new(worker).ok()?);
        self.verify(&one_worker_text(&fleet, &worker), signature).then_some((fleet, worker))
    }

    /// Returns the fleet whose token this is; `None` if it was not signed here.
    pub fn fleet_of(&self, token: &str) -> Option<FleetName> {
        let (fleet, signature) = token.strip_prefix("lsw1.")?.split_once('.')?;
        let fleet = FleetName::new(fleet).ok()?;
        self.verify(&worker_text(&fleet), signature).then_some(fleet)
    }

    /// `lst1.<task>.<fence>.<signature>`: dies with the lease, since the fence is checked against it.
    pub fn task_token(&self, held: Held) -> String {
        let text = task_text(held);
        format!("lst1.{text}.{}", URL_SAFE_NO_PAD.encode(self.sign(&text).finalize().into_bytes()))
    }

    /// Returns the attempt whose token this is; `None` if it was not signed here. Whether its lease lives is the store's
    /// to say.
    pub fn held_of(&self, token: &str) -> Option<Held> {
        let (text, signature) = token.strip_prefix("lst1.")?.rsplit_once('.')?;
        let (task, fence) = text.split_once('.')?;
        let task = longshore_core::id::TaskId(uuid::Uuid::try_parse(task).ok()?);
        let held = Held { task, fence: longshore_core::id::Fence(fence.parse().ok()?) };
        (task_text(held) == text && self.verify(text, signature)).then_some(held)
    }

    fn sign(&self, text: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        mac
    }

    fn verify(&self, text: &str, signature: &str) -> bool {
        let signature = URL_SAFE_NO_PAD.decode(signature);
        signature.is_ok_and(|signature| self.sign(text).verify_slice(&signature).is_ok())
    }
}

fn worker_text(fleet: &FleetName) -> String {
    format!("worker:{fleet}")
}

fn one_worker_text(fleet: &FleetName, worker: &WorkerId) -> String {
    format!("worker:{fleet}:{worker}")
}

fn task_text(held: Held) -> String {
    format!("{}.{}", held.task.0.simple(), held.fence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(byte: u8) -> Signer {
        Signer::new(vec![byte; 32])
    }

    #[test]
    fn a_worker_token_names_its_fleet_and_only_its_own() {
        let research = FleetName::new("research").expect("valid");
        let token = signer(1).worker_token(&research);
        assert_eq!(signer(1).fleet_of(&token), Some(research));
        assert_eq!(signer(1).fleet_of(&token.replace("research", "writing")), None);
    }

    #[test]
    fn a_token_of_one_worker_names_it_and_opens_nothing_for_another() {
        let (fleet, worker) = (FleetName::new("a").expect("valid"), WorkerId::new("a-b.c:1").expect("valid"));
        let token = signer(1).token_of_worker(&fleet, &worker);
        assert_eq!(signer(1).worker_of(&token), Some((fleet, worker)));
        let forged = token.replace("a-b.c:1", "a-b.c:2");
        assert_eq!((signer(1).worker_of(&forged), signer(2).worker_of(&token)), (None, None));
        assert_eq!((signer(1).fleet_of(&token), signer(1).held_of(&token)), (None, None));
    }

    #[test]
    fn forged_foreign_and_broken_tokens_are_refused() {
        let token = signer(1).worker_token(&FleetName::new("a").expect("valid"));
        assert_eq!(signer(2).fleet_of(&token), None, "another installation's secret");
        for broken in ["", "lsw1.", "lsw1.a", "lsw1.a.", "lsw1.a.!!!!", &token[..token.len() - 1], "x"] {
            assert_eq!(signer(1).fleet_of(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_task_token_is_no_worker_token_and_a_signer_does_not_print_its_secret() {
        let held =
            Held { task: longshore_core::id::TaskId(uuid::Uuid::nil()), fence: longshore_core::id::Fence(7) };
        let token = signer(1).task_token(held);
        assert!(token.starts_with("lst1.") && signer(1).fleet_of(&token).is_none());
        assert_eq!(signer(1).held_of(&token), Some(held));
        let next = token.replace(".7.", ".8.");
        assert_eq!((signer(2).held_of(&token), signer(1).held_of(&next)), (None, None));
        assert_eq!(format!("{:?}", signer(1)), "[redacted]");
    }
}
