//! Which addresses a webhook may reach.
//!
//! A control plane stands where others do not: beside metadata services, databases, admin pages. Whoever may choose a
//! webhook's address must not reach those through it. So only addresses of the public internet are called unless the
//! webhook says `allow_private`; what a name resolves to is checked, not the name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address that is not called, and the range that it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {range}: not called without `allow_private = true`")]
pub struct Refusal {
    pub address: IpAddr,
    pub range: &'static str,
}

/// Refuses all addresses that are not of the public internet, those hidden within IPv6 addresses included.
///
/// Source: the IANA registries of special-purpose IPv4 and IPv6 addresses.
pub fn check(address: IpAddr) -> Result<(), Refusal> {
    let range = match address {
        IpAddr::V4(v4) => of_v4(v4),
        IpAddr::V6(v6) => of_v6(v6),
    };
    range.map_or(Ok(()), |range| Err(Refusal { address, range }))
}

fn of_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("unspecified"),
        [127, ..] => Some("loopback"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
        [100, 64..=127, ..] => Some("shared by a carrier (CGNAT)"),
        // Metadata services of clouds among them.
        [169, 254, ..] => Some("link-local"),
        [192, 0, 0, _] | [192, 88, 99, _] => Some("reserved for protocols"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("for documentation"),
        [198, 18..=19, ..] => Some("for benchmarks"),
        // Azure's own services, metadata included, answer here though the block is public.
        [168, 63, 129, 16] => Some("a cloud's metadata service"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

fn of_v6(address: Ipv6Addr) -> Option<&'static str> {
    let part = address.segments();
    match part {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        // An IPv4 address in another dress: mapped, translated (NAT64), 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] => of_v4(inner(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of_v4(inner(high, low)),
        [0x2002, high, low, ..] => of_v4(inner(high, low)),
        [0xfc00..=0xfdff, ..] => Some("private"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        // Teredo (its inner address is inverted), documentation, and other blocks that are not for the internet.
        [0x2001, 0..=0x1ff, ..] => Some("reserved for protocols"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("for documentation"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

fn inner(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(address: &str, range: &str) {
        let found = check(address.parse().expect(address)).expect_err(address);
        assert!(found.range.contains(range), "{address}: {}", found.range);
    }

    #[test]
    fn what_only_this_network_can_reach_is_refused() {
        for (address, range) in [
            ("127.0.0.1", "loopback"),
            ("127.9.9.9", "loopback"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "CGNAT"),
            ("100.127.255.255", "CGNAT"),
            ("169.254.169.254", "link-local"),
            ("169.254.170.2", "link-local"),
            ("168.63.129.16", "metadata"),
            ("192.0.0.192", "protocols"),
            ("198.18.0.1", "benchmarks"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fd00:ec2::254", "private"),
            ("fc00::1", "private"),
            ("fe80::1", "link-local"),
            ("fec0::1", "reserved"),
            ("ff02::1", "multicast"),
            ("2001:db8::1", "documentation"),
            ("2001::1", "protocols"),
            ("::127.0.0.1", "reserved"),
            ("64:ff9b:1::1", "reserved"),
            ("100::1", "reserved"),
        ] {
            refused(address, range);
        }
    }

    #[test]
    fn an_address_within_an_ipv6_address_is_seen() {
        refused("::ffff:127.0.0.1", "loopback");
        refused("::ffff:a9fe:a9fe", "link-local");
        refused("64:ff9b::10.0.0.1", "private");
        refused("2002:7f00:1::", "loopback");
    }

    #[test]
    fn the_public_internet_is_called() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "169.253.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2a00:1450::1",
        ] {
            assert_eq!(check(address.parse().expect(address)), Ok(()), "{address}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_what_it_is(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            prop_assert_eq!(check(IpAddr::V4(v4)).is_ok(), check(mapped).is_ok());
        }

        #[test]
        fn nothing_that_the_standard_library_knows_as_private_is_called(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let known = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_broadcast()
                || v4.is_documentation() || v4.is_multicast() || v4.is_unspecified();
            prop_assert!(!known || check(IpAddr::V4(v4)).is_err());
        }
    }
}
