//! Where LLM calls go: to the gateways that the control plane names, or where all goes if it names none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::addresses::Addresses;

pub(super) struct Gateways {
    links: Arc<Addresses>,
    /// Set while gateways run apart from links: they take turns by themselves.
    apart: Mutex<Option<Arc<Addresses>>>,
}

impl Gateways {
    pub(super) fn new(links: Arc<Addresses>) -> Gateways {
        Gateways { links, apart: Mutex::default() }
    }

    /// Takes turns among those that calls go to now.
    pub(super) fn addresses(&self) -> Arc<Addresses> {
        Arc::clone(self.lock().as_ref().unwrap_or(&self.links))
    }

    /// What the control plane says: `None`: all links are gateways; none of them: keep to what is known.
    pub(super) fn told(&self, gateways: Option<&[String]>) {
        let mut apart = self.lock();
        match (gateways, &*apart) {
            (None, _) => *apart = None,
            (Some(told), Some(known)) => known.told(told),
            (Some(told), None) => *apart = self.links.of_others(told).map(Arc::new),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Addresses>>> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_client::Round;

    fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
        names.map(|name| format!("http://{name}")).to_vec()
    }

    fn gateways(link: &str) -> Gateways {
        Gateways::new(Addresses::new(&[link.to_owned()], "worker-1").expect("an address").into())
    }

    fn check(gateways: &Gateways, told: Option<&[String]>, in_use: &str) {
        gateways.told(told);
        assert_eq!(&*gateways.addresses().in_use(), in_use, "{told:?}");
    }

    #[test]
    fn calls_go_to_the_links_until_gateways_are_named_and_again_when_all_links_are() {
        let gateways = gateways("http://link");
        check(&gateways, None, "http://link");
        check(&gateways, Some(&[]), "http://link");
        check(&gateways, Some(&names(["a"])), "http://a");
        check(&gateways, Some(&[]), "http://a");
        check(&gateways, None, "http://link");
    }

    #[test]
    fn a_gateway_that_works_is_kept_to_and_one_that_fails_is_left_for_a_new_one() {
        let gateways = gateways("http://link");
        check(&gateways, Some(&names(["a"])), "http://a");
        check(&gateways, Some(&names(["b"])), "http://a");
        let (addresses, mut round) = (gateways.addresses(), Round::default());
        let next = addresses.failed(&addresses.in_use(), &mut round).expect("the new one");
        assert_eq!(&*next, "http://b");
        assert_eq!(addresses.failed(&next, &mut round), None, "neither the link nor a gateway that is gone");
        assert_eq!(&*addresses.in_use(), "http://b");
    }

    #[test]
    fn the_token_travels_no_less_safely_than_to_the_link() {
        let gateways = gateways("https://link");
        check(&gateways, Some(&names(["a"])), "https://link");
        check(&gateways, Some(&["https://b".to_owned()]), "https://b");
    }
}
