//! By which addresses the worker link of this process is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// By workers of this machine.
pub fn here(listener: SocketAddr) -> SocketAddr {
    match listener.ip().is_unspecified() {
        true => SocketAddr::new(loopback(listener), listener.port()),
        false => listener,
    }
}

/// By whoever is elsewhere, as well as can be known: a listener on every address is shown by the one that this machine
/// speaks to others from.
pub fn elsewhere(listener: SocketAddr) -> SocketAddr {
    match listener.ip().is_unspecified() {
        true => SocketAddr::new(outward(listener).unwrap_or(loopback(listener)), listener.port()),
        false => listener,
    }
}

fn loopback(listener: SocketAddr) -> IpAddr {
    if listener.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// The address that packets to far places leave from. Nothing is sent: the route is looked up, no more. The far places are
/// addresses for documentation (RFC 5737, RFC 3849), which nobody has. `[::]` takes IPv4 as well, and networks of
/// containers often have nothing else.
fn outward(listener: SocketAddr) -> Option<IpAddr> {
    let ask = |from: IpAddr, far: IpAddr| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    let four = || ask(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let six = || ask(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    if listener.is_ipv4() { four() } else { six().or_else(four) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_one_address_is_reached_there() {
        for text in ["127.0.0.1:7118", "10.1.2.3:80", "[::1]:7118"] {
            let listener: SocketAddr = text.parse().expect("an address");
            assert_eq!((here(listener), elsewhere(listener)), (listener, listener));
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_at_one_that_exists() {
        let every: SocketAddr = "0.0.0.0:7118".parse().expect("an address");
        assert_eq!(here(every), "127.0.0.1:7118".parse().expect("an address"));
        let shown = elsewhere(every);
        assert!(!shown.ip().is_unspecified() && shown.port() == 7118, "{shown}");
        // Whoever can listen on it has it.
        std::net::TcpListener::bind((shown.ip(), 0)).expect("an address of this machine");
        assert_eq!(here("[::]:1".parse().expect("an address")), "[::1]:1".parse().expect("an address"));
    }
}
