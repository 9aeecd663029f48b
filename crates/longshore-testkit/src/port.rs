//! Ports for servers that come back on the port they had.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

/// A port of 127.0.0.1 that nobody listens on.
///
/// It lies below the range from which the system takes ports for outgoing connections: those of other tests would take it
/// while its server is down.
pub fn free() -> u16 {
    let low = outgoing_begin();
    loop {
        let wanted = if low > 12_000 { rand::random_range(10_240..low) } else { 0 };
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) {
            return listener.local_addr().expect("a bound socket has an address").port();
        }
    }
}

fn outgoing_begin() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(0)
}
