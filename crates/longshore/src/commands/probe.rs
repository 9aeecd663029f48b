//! `longshore probe`: asks the probe port, for health checks in images without curl.
//!
//! Speaks just enough HTTP/1.1 for it, so that a check every few seconds costs next to nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask
    #[arg(value_enum)]
    what: What,

    /// Where the probes listen
    #[arg(
        long,
        value_name = "ADDR",
        env = "LONGSHORE_PROBE_ADDR",
        default_value = "127.0.0.1:7119",
        hide_env_values = true
    )]
    addr: SocketAddr,

    /// How long an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=300))]
    within: u64,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// The supervisor runs and its agent can be brought to answer
    Live,
    /// It takes tasks
    Ready,
}

/// An answer beyond it is not one of ours.
const ANSWER_LIMIT: u64 = 1 << 20;

/// Exits 0 when the answer is yes, 1 when it is no or there is none: Docker knows only these two.
pub async fn run(args: Args) -> Outcome {
    let path = match args.what {
        What::Live => "/livez",
        What::Ready => "/readyz",
    };
    let addr = connectable(args.addr);
    let asked = timeout(Duration::from_secs(args.within), ask(addr, path)).await;
    let answer = asked.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")));
    let answer = answer.map_err(|error| Fault::new(format!("could not ask {addr}{path}")).cause(&error))?;
    let (status, body) = read_answer(&answer)
        .ok_or_else(|| Fault::new(format!("{addr}{path} gave an answer that is not longshore's")))?;
    output::text(body.trim_end())?;
    Ok(if status == 200 { Exit::Done } else { Exit::Error })
}

/// Listening everywhere means that this machine's loopback reaches it.
fn connectable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

async fn ask(addr: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).await?;
    // HTTP/1.0: the answer ends with the connection, and is not cut into chunks.
    let request = format!("GET {path} HTTP/1.0\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read_answer(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(read_answer(answer), Some((503, "no".into())));
        assert_eq!(read_answer(b"SSH-2.0-OpenSSH_9.6\r\n"), None);
    }

    #[test]
    fn an_address_to_listen_on_everywhere_is_asked_on_loopback() {
        let told = |addr: &str| connectable(addr.parse().expect("an address")).to_string();
        assert_eq!(told("0.0.0.0:7119"), "127.0.0.1:7119");
        assert_eq!(told("[::]:7119"), "[::1]:7119");
        assert_eq!(told("10.0.0.1:7119"), "10.0.0.1:7119");
    }
}
